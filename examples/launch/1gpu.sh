#!/usr/bin/env bash
# One GPU: no launcher is needed. Started again after a stop, the run goes on at its last checkpoint.
set -euo pipefail

tima train --method tima --model openai/clip-vit-base-patch32 --data "${DATA:?a training set: name or folder}" --out "${OUT:-runs/1gpu}" \
    batch_size=256 workers=12 "$@"   # workers: processes that decode pictures, about the cores that one GPU has for itself

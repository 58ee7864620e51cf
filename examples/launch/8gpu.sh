#!/usr/bin/env bash
# Eight GPUs of one machine. --max-restarts: when a process dies, all are started again and go on at the last checkpoint.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"   # torchrun sets 1 else; cores of the machine / 8 / about 2

# batch_size counts the pictures of a step over all processes: 128 a GPU here. workers is per process.
torchrun --standalone --nproc-per-node=8 --max-restarts=3 -m tima train \
    --method tima --model openai/clip-vit-base-patch32 --data "${DATA:?a training set: name or folder}" --out "${OUT:-runs/8gpu}" \
    batch_size=1024 workers=12 save_every=200 "$@"   # --shard among them spreads the weights (FSDP2)

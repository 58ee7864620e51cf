#!/usr/bin/env bash
# Four machines with eight GPUs each, without a scheduler. Run this on every machine, with HEAD set to the first one's address:
#   HEAD=10.0.0.1 DATA=/shared/imagenet OUT=/shared/runs/x bash examples/launch/4x8gpu.sh
set -euo pipefail
: "${HEAD:?the address of one of the machines, the same everywhere}"
: "${DATA:?a training set on a disk that all machines see}"
: "${OUT:?a folder on a disk that all machines share: checkpoints go there}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1         # a machine that is lost ends the others' waiting, so that a restart can begin
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1      # after a restart machines must not find the addresses of processes that are gone
# export NCCL_SOCKET_IFNAME=eth0                 # where a machine has several networks: the one that reaches the others

# c10d: the machines find each other at HEAD and agree anew after a loss; the id keeps two runs apart
torchrun --nnodes=4 --nproc-per-node=8 --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$HEAD:29500" --rdzv-id="${RUN_ID:-tima}" -m tima train \
    --method tima --model openai/clip-vit-large-patch14 --data "$DATA" --out "$OUT" \
    batch_size=4096 lr=2e-4 warmup=0.1 workers=12 save_every=200 "$@"

#!/usr/bin/env bash
# Every parameter of a 72B model on four machines with eight A100 each: bash scripts/large/multinode.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1,2,3,4,5,6,7}"
export NPROC_PER_NODE="${NPROC_PER_NODE:-8}"
export NNODES="${NNODES:-4}" NODE_RANK="${NODE_RANK:?0 to 3}" MASTER_ADDR="${MASTER_ADDR:?address of node 0}"
swift sft --config "$(dirname "$0")/../../configs/large/multinode.yaml" "$@"

#!/usr/bin/env bash
# Every parameter of a 14B model on four A100 with ZeRO-3: bash scripts/large/full_ddp_zero3.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1,2,3}"
export NPROC_PER_NODE="${NPROC_PER_NODE:-4}"
swift sft --config "$(dirname "$0")/../../configs/large/full_ddp_zero3.yaml" "$@"

#!/usr/bin/env bash
# LoRA on a 6B model on two RTX 3090: bash scripts/large/lora_ddp.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1}"
export NPROC_PER_NODE="${NPROC_PER_NODE:-2}"
swift sft --config "$(dirname "$0")/../../configs/large/lora_ddp.yaml" "$@"

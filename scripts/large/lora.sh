#!/usr/bin/env bash
# LoRA on a 6B model on one RTX 3090: bash scripts/large/lora.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
swift sft --config "$(dirname "$0")/../../configs/large/lora.yaml" "$@"

#!/usr/bin/env bash
# LoRA on a 72B model, its layers on two A100: bash scripts/large/lora_mp.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1}"
swift sft --config "$(dirname "$0")/../../configs/large/lora_mp.yaml" "$@"

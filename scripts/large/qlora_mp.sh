#!/usr/bin/env bash
# LoRA on a 70B model in 4 bits, its layers on two RTX 3090: bash scripts/large/qlora_mp.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1}"
swift sft --config "$(dirname "$0")/../../configs/large/qlora_mp.yaml" "$@"

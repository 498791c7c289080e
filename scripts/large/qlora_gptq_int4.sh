#!/usr/bin/env bash
# LoRA on a 14B model in GPTQ's 4 bits on one RTX 3090: bash scripts/large/qlora_gptq_int4.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
swift sft --config "$(dirname "$0")/../../configs/large/qlora_gptq_int4.yaml" "$@"

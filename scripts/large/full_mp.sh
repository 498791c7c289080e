#!/usr/bin/env bash
# Every parameter of a 14B model, its layers on two A100: bash scripts/large/full_mp.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0,1}"
swift sft --config "$(dirname "$0")/../../configs/large/full_mp.yaml" "$@"

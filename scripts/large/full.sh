#!/usr/bin/env bash
# Every parameter of a 7B model on one A100: bash scripts/large/full.sh [more options]
set -euo pipefail
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"
swift sft --config "$(dirname "$0")/../../configs/large/full.yaml" "$@"

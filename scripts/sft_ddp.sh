#!/usr/bin/env bash
# The same on two GPUs (or two CPU processes): scripts/sft_ddp.sh MODEL DATA [more options]
set -euo pipefail
export NPROC_PER_NODE="${NPROC_PER_NODE:-2}"
swift sft --model_id_or_path "${1:?a model}" --dataset "${2:?a data set}" --lora_target_modules ALL "${@:3}"

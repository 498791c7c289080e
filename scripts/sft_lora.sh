#!/usr/bin/env bash
# Fine-tune MODEL on DATA with LoRA: scripts/sft_lora.sh MODEL DATA [more options]
set -euo pipefail
swift sft --model_id_or_path "${1:?a model}" --dataset "${2:?a data set}" --lora_target_modules ALL "${@:3}"

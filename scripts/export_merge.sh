#!/usr/bin/env bash
# Merge a checkpoint's LoRA into its model: scripts/export_merge.sh CHECKPOINT [more options]
set -euo pipefail
swift export --ckpt_dir "${1:?a checkpoint}" --merge_lora true "${@:2}"

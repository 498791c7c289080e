#!/usr/bin/env bash
# Let a checkpoint answer the rows that its training set aside: scripts/infer_dataset.sh CHECKPOINT [more options]
set -euo pipefail
swift infer --ckpt_dir "${1:?a checkpoint}" --load_dataset_config true "${@:2}"

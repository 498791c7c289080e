#!/usr/bin/env bash
# Two machines: run it on both, with NODE_RANK=0 and 1, and the first one's address in MASTER_ADDR.
# NODE_RANK=0 MASTER_ADDR=10.0.0.1 scripts/sft_multinode.sh MODEL DATA [more options]
set -euo pipefail
export NNODES="${NNODES:-2}" NODE_RANK="${NODE_RANK:?0 or 1}" MASTER_ADDR="${MASTER_ADDR:?address of node 0}"
export NPROC_PER_NODE="${NPROC_PER_NODE:-1}"
swift sft --model_id_or_path "${1:?a model}" --dataset "${2:?a data set}" --lora_target_modules ALL "${@:3}"

#!/usr/bin/env bash
# Prove what docs/exactness.md claims, and write it anew. --release takes the counts of a release; --only K1 K9 some rows.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$PWD"
exec "$python" -W ignore -m scripts.prove "$@"

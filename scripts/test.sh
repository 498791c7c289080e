#!/usr/bin/env bash
# Make .venv, install, run the tests: the quick ones, or all with --all. Further words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
select=(-m "not slow and not gpu")
if [[ "${1:-}" == --all ]]; then select=(-m "not gpu"); shift; fi
[[ -x .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
stamp=.venv/installed-$(cat pyproject.toml requirements/*.txt | cksum | cut -d' ' -f1)
if [[ ! -e $stamp ]]; then
    .venv/bin/python -m pip install --quiet torch==2.13.0
    .venv/bin/python -m pip install --quiet -c requirements/constraints.txt -e '.[dev]'
    touch "$stamp"
fi
.venv/bin/coverage erase
.venv/bin/coverage run -m pytest "${select[@]}" "$@"
.venv/bin/coverage combine --quiet
.venv/bin/coverage report --skip-covered --sort=cover --fail-under="${COVERAGE:-90}"

#!/usr/bin/env bash
# Make .venv, install, run the tests: the quick ones, or with --all every one, and count the lines they reach.
# Further words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
select=(-m "not slow and not gpu") run=(.venv/bin/python) extras=dev
if [[ "${1:-}" == --all ]]; then extras+=,serve,quant,deepspeed,gguf,eval; fi
bash scripts/install.sh "$extras"
if [[ "${1:-}" == --all ]]; then
    .venv/bin/python -m pip install -q xllamacpp >/dev/null 2>&1 || echo "no llama.cpp: its tests are skipped" >&2
    select=(-m "not gpu") run=(.venv/bin/coverage run)
    shift
    if ! command -v chromium >/dev/null && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
        { apt-get update && apt-get install -y chromium; } >/dev/null 2>&1 || echo "no Chromium: its tests are skipped" >&2
    fi
    if [[ ! -e node_modules/axe-core && -z "${AXE_CORE:-}" ]] && command -v npm >/dev/null; then
        npm install --no-save --no-package-lock --no-audit --no-fund axe-core@4 >/dev/null 2>&1 ||
            echo "no axe-core: pages are asked less" >&2
    fi
fi
.venv/bin/coverage erase
"${run[@]}" -m pytest -n "${WORKERS:-2}" --dist loadfile "${select[@]}" "$@"
if [[ ${run[0]} == */coverage ]]; then
    .venv/bin/coverage combine --quiet
    .venv/bin/coverage report --skip-covered --sort=cover --fail-under="${COVERAGE:-90}"
fi

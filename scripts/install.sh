#!/usr/bin/env bash
# Make .venv and install swift into it, once: scripts/install.sh [EXTRA].
# PYTHON names the interpreter; TORCH is what pip is given for torch, such as "torch==2.13.0 --index-url <of CPU wheels>".
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE  # with it every start of Python would compile everything anew
extra=${1:+[$1]}
stamp=.venv/installed-${1:-}-$(cat pyproject.toml requirements/*.txt | cksum | cut -d' ' -f1)
if [[ -e $stamp ]]; then exit; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step() { # say what happens and for how long; show what was printed when it fails
    local begun=$SECONDS says=$1
    shift
    "$@" >"$log" 2>&1 &
    while kill -0 $! 2>/dev/null; do
        if [[ -t 2 ]]; then printf '\r  %s … %s s ' "$says" $((SECONDS - begun)) >&2; fi
        sleep 0.5
    done
    if wait $!; then printf '\r  %s: %s s   \n' "$says" $((SECONDS - begun)) >&2; else
        printf '\n' >&2
        tail -n 20 "$log" >&2
        return 1
    fi
}
if [[ ! -x .venv/bin/python ]]; then step "making .venv" "${PYTHON:-python3}" -m venv .venv; fi
read -ra torch <<<"${TORCH:-torch==2.13.0}"
pip=(.venv/bin/python -m pip install --disable-pip-version-check)
step "installing torch" "${pip[@]}" "${torch[@]}"
step "installing swift$extra and what it needs" "${pip[@]}" -c requirements/constraints.txt -e ".$extra"
touch "$stamp"

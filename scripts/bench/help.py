"""How long `swift --help` and `swift sft --help` take, as a ratio to `python -c pass` in the same run.

    python scripts/bench/help.py [--runs 15]

Targets: at most 10 and 15. Exits with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

FLOOR = ["-c", "pass"]
TARGETS = {"--help": 10, "--version": 10, "sft --help": 15, "infer --help": 15, "export --help": 15}


def seconds(words: list[str]) -> float:
    """Wall time of one `python <words>`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="how often each is timed")
    runs = parser.parse_args().runs
    commands = {name: ["-m", "swift.cli", *name.split()] for name in TARGETS}
    for words in (FLOOR, *commands.values()):
        seconds(words)  # compiles the byte code
    times: dict[str, list[float]] = {name: [] for name in ("floor", *commands)}
    for _ in range(runs):  # interleaved, so that a busy machine slows all of them
        times["floor"].append(seconds(FLOOR))
        for name, words in commands.items():
            times[name].append(seconds(words))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{'command':24}{'median ms':>10}{'ratio':>8}{'target':>8}")
    print(f"{'python -c pass':24}{1000 * medians['floor']:10.1f}{1:8.1f}")
    missed = False
    for name, target in TARGETS.items():
        ratio = medians[name] / medians["floor"]
        missed |= ratio > target
        print(f"{'swift ' + name:24}{1000 * medians[name]:10.1f}{ratio:8.1f}{target:>8}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

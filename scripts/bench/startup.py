"""How long until `swift sft` tells a mistake, and how long its imports take next to those of its libraries alone.

    python scripts/bench/startup.py [--runs 3]

A mistake in what was typed is told without importing torch. The last row imports all that `swift sft` needs, against
a floor that imports only the libraries it is built on.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIBRARIES = "import torch, datasets, transformers, peft; from transformers import Seq2SeqTrainer, AutoModelForCausalLM"
HOSTILE_YAML = "a: " + "[" * 100_000


def seconds(words: list[str], code: int) -> float:
    """Wall time of one `python <words>`, which must end with `code`."""
    start = time.perf_counter()
    run = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if run.returncode != code:
        raise SystemExit(f"{' '.join(words)[:100]} exited with {run.returncode}, not {code}:\n{run.stderr}")
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often each is timed")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as directory:
        hostile = Path(directory, "run.yaml")
        hostile.write_text(HOSTILE_YAML)
        cli = ["-m", "swift.cli"]
        rows = [
            ("python -c pass", ["-c", "pass"], 0, ""),
            ("swift sft (nothing said)", [*cli, "sft"], 2, "python -c pass"),
            ("swift sft --lora_rnak 8", [*cli, "sft", "--lora_rnak", "8"], 2, "python -c pass"),
            ("swift sft hostile.yaml", [*cli, "sft", str(hostile)], 78, "python -c pass"),
            ("import its libraries", ["-c", LIBRARIES], 0, ""),
            ("import swift.commands.sft", ["-c", "import swift.commands.sft"], 0, "import its libraries"),
        ]
        medians: dict[str, float] = {}
        for name, words, code, _ in rows:
            seconds(words, code)  # compiles the byte code
            medians[name] = statistics.median(seconds(words, code) for _ in range(runs))
    print(f"{'':28}{'median ms':>10}{'ratio':>8}  to")
    for name, _, _, floor in rows:
        ratio = f"{medians[name] / medians[floor]:8.2f}  {floor}" if floor else ""
        print(f"{name:28}{1000 * medians[name]:10.1f}{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

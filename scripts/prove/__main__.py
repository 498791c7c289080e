"""Prove what docs/exactness.md claims, and write it: every row with its count, for us and for transformers with PEFT.

    bash scripts/prove.sh [--release] [--only K1 K9 ...] [--out docs/exactness.md]

Without --release the counts are small. Rows that are not done again keep what the page says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import peft
import torch
import transformers

from scripts.prove import adapters, calls, damage, differences, kills, loss, mutants, order, resume, signals, ways
from swift.log import get_logger

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exactness.md"
FOUND = PAGE.with_suffix(".json")
Count = tuple[int, int] | None


@dataclass(frozen=True)
class Claim:
    """A row of the table."""

    text: str
    ours: Callable[[bool], Count]
    plain: Callable[[bool], Count] | None = None


def both(text: str, count: Callable[[str, bool], Count]) -> Claim:
    return Claim(text, lambda release: count("swift", release), lambda release: count("plain", release))


CLAIMS = {
    "loss": both(
        "One loss: an epoch cut into 1 or 2 processes and 1, 2 or 4 accumulated batches, padded, packed or without "
        "padding, LoRA and full, plain, label-smoothed (and, ours alone, with weighed tokens): weights and losses are "
        "those of whole, padded steps to 1e-6",
        lambda engine, release: loss.cuts(engine, few=not release),
    ),
    "K1": both(
        "Killed (SIGKILL) at a random moment, gone on with `auto`: ends, and the weights are those of the unbroken run",
        lambda engine, release: kills.kills(engine, 100 if release else 10),
    ),
    "two": both(
        "One of two processes killed at a random moment, both gone on with `auto`: the weights of the unbroken run",
        lambda engine, release: kills.kills(engine, 20 if release else 4, world=2),
    ),
    "K2": Claim(
        "Killed at each call that changes the disk while a checkpoint is saved and another goes (traced): all that is "
        "found is whole, and it is the newest or the one before",
        lambda release: calls.killed(few=not release),
    ),
    "K4": both(
        "Every file of a checkpoint is synced to the disk before its name is given (traced)",
        lambda engine, release: order.written_first(engine),
    ),
    "K5": both(
        "Going on within an epoch, at its edge and after it: weights, optimiser, schedule, random state and losses are "
        "equal bit for bit (LoRA and full, accumulation 1 and 3, 0 and 2 workers, 96 and 97 rows; padded, "
        "rows of like length together, packed)",
        lambda engine, release: resume.cells(engine, None if release else 9),
    ),
    "ways": Claim(
        "The same through `swift sft`: LoRA+, AdaLoRA, LISA, GaLore, several tuners; packed, without padding, lazy, "
        "streamed, mixed, weighed",
        lambda release: ways.go_on(few=not release),
    ),
    "K6": both(
        "The same of two processes (LoRA and full, padded and packed)",
        lambda engine, release: resume.cells(engine, None if release else 3, resume.OF_TWO),
    ),
    "K7": both(
        "Going on with other batches, rows, seeds, rates, processes or versions ends with 78 and names the difference, "
        "and goes on where that is allowed",
        lambda engine, release: differences.refused(engine),
    ),
    "K8": Claim(
        "SIGTERM, SIGINT and SIGUSR1 save the step at hand and end with 143 or 130; the run goes on to equal weights",
        lambda release: signals.stops(60 if release else 6),
    ),
    "K9": both(
        "A file of the newest checkpoint is removed, emptied, cut, changed in one bit or replaced: it is noticed",
        lambda engine, release: damage.detected(engine, few=not release),
    ),
    "F1": Claim(
        "The disk is full, or fails, at each of these calls: exit 74 with the reason, no checkpoint less",
        lambda release: calls.refused(few=not release),
    ),
    "F5": both(
        "An adapter that does not belong to the model is refused: other layers, sizes, names, base, vocabulary, kind",
        lambda engine, release: adapters.refused(engine),
    ),
    "guards": Claim(
        "One of the guards of our own code is taken out: a quick test fails",
        lambda release: mutants.noticed(few=not release),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", action="store_true", help="the counts of a release, which take an hour")
    parser.add_argument("--only", nargs="+", choices=CLAIMS, default=list(CLAIMS), help="do only these again")
    parser.add_argument("--out", type=Path, default=PAGE)
    said = parser.parse_args()
    _hush()
    found = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    for name in said.only:
        claim, began = CLAIMS[name], time.monotonic()
        ours = claim.ours(said.release)
        plain = claim.plain(said.release) if claim.plain else None
        found[name] = {"ours": ours, "plain": plain, "date": f"{datetime.now(UTC):%Y-%m-%d}", "release": said.release}
        print(f"{name}: {ours}, plain {plain} ({time.monotonic() - began:.0f} s)", flush=True)
        said.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        said.out.write_text(page(found), encoding="utf-8")
    if any(row["ours"] and row["ours"][0] < row["ours"][1] for row in found.values()):
        sys.exit("a claim does not hold")


def _hush() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    get_logger().setLevel("ERROR")


def page(found: dict[str, dict]) -> str:
    rows = [
        f"| {claim.text} | {_of(found[name]['ours'])} | {_of(found[name]['plain'])} | "
        f"`{'--release ' if found[name]['release'] else ''}--only {name}` | {found[name]['date']} |"
        for name, claim in CLAIMS.items()
        if name in found
    ]
    return "\n".join([HEAD, *rows, "", TAIL.format(
        torch=torch.__version__, transformers=transformers.__version__, peft=peft.__version__,
        python=platform.python_version(), machine=f"{platform.machine()}, {os.cpu_count()} cores",
    )])  # fmt: skip


def _of(count: Count) -> str:
    return "–" if count is None else f"{count[0]} of {count[1]}"


HEAD = """# What is exact, and how often it was tried

<!-- Written by `bash scripts/prove.sh`. -->

Each row is a script in `scripts/prove/` that anyone can run. The second column is the same script on transformers'
`Trainer` with PEFT and nothing of ours. The command in a row is that which counted swift; without `--release` it takes
less time.

| Claim | swift | Trainer + PEFT | `bash scripts/prove.sh` | Date |
|---|---|---|---|---|"""
TAIL = """All on small models on CPUs: Python {python}, torch {torch}, transformers {transformers},
PEFT {peft}; {machine}. `bash scripts/prove.sh` does all rows again with small counts, `--release` with
those of a release, `--only K1 K9` some.

## What going on compares

Going on from a checkpoint is refused, with every difference named, where the run would not be the one that wrote it:
processes, device, batches, the rows themselves (a digest of all tokens, labels and weights), seeds, learning rate and
its schedule, length, optimiser, clipping, loss, the tuner's options, the weights of an adapter's base, versions of
torch, transformers, PEFT and swift. `--allow_inexact_resume` goes on all the same and says `resume: inexact because`;
`--resume_only_model` starts a new run with the adapters, and `--model_id_or_path` with a whole model's weights. With a
constant learning rate a run may go on longer.

A stream finds its place again; rows that are read late or packed are compared as well. The order of rows is a function
of the seed, the epoch and the place in it, so nothing that was learnt is read again.

The files themselves are compared by size and SHA-256 first; `--resume_verify fast` compares sizes alone.

## What a signal does

The first SIGTERM, SIGUSR1 or SIGINT lets the step at hand end, on every process the same one, and a checkpoint is
written; an evaluation is given up and made up for when the run goes on. A log line ends where a checkpoint does, so a
run that was stopped between two lines has one more.
"""

if __name__ == "__main__":
    main()

"""How fast conversations become tokens, next to a floor: one call of the tokenizer on texts that are rendered already.

    python scripts/bench/encode.py [--rows 20000] [--turns 3] [--memory 1000] [--out docs/data-speed.md]

The floor does nothing but `tokenizers.Tokenizer.encode_batch`. Ours reads conversations, renders and checks them, makes
labels and keeps an account. Rows are cut from the sources of Python's standard library, with lengths as chats have
them; the tokenizer is a byte-level BPE trained on the same. A run is a process of its own, and the best of its turns
counts; `cached` is a second run that finds what the first one kept. The turns of the floor and of ours alternate, so
that a busy machine is busy for both.

`--memory` also measures how much memory reading, encoding and keeping a file of that many MB takes at most, beyond
what the libraries take, and the same of a stream.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
KINDS = ("floor", "encode", "first", "cached")
LOADS = {"kept": "file to data set, kept on disk", "stream": "`--streaming`, one pass"}
TITLES = {
    "floor": "floor: one `encode_batch`",
    "encode": "conversations to tokens and labels",
    "first": "file to data set, first run",
    "cached": "file to data set, cached run",
}
TITLE = "# How fast conversations become tokens"
INTRODUCTION = """\
Written by `python scripts/bench/encode.py --out docs/data-speed.md`. The wall clock counts what other programs take of
the processor too; where there are some, processor seconds are the ones to compare."""


MEMORY = """\
## Memory

What all processes take together at most while a file is read and encoded, beyond what the libraries took before. A
stream keeps `--streaming_buffer_size` rows, whatever the size of the file."""


def corpus(size: int) -> str:
    """Text of the standard library, in an order that is the same everywhere."""
    texts: list[str] = []
    total = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        texts.append(text)
        total += len(text)
        if total > size:
            break
    return "\n".join(texts)


def write_inputs(place: Path, count: int) -> None:
    """A directory `model` with a tokenizer, and `chat.jsonl`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config

    text = corpus(6_000_000)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([text[:2_000_000]], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    tokenizer.save_pretrained(place / "model")
    Qwen2Config(vocab_size=16000).save_pretrained(place / "model")
    dice, at = random.Random(1), 0

    def take(tokens: int) -> str:
        nonlocal at
        at = at if at + 4 * tokens < len(text) else dice.randrange(1000)
        piece = text[at : at + 4 * tokens].strip() or "ok"
        at += 4 * tokens
        return piece

    with (place / "chat.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(count):
            length = min(1500, max(16, int(dice.lognormvariate(math.log(110), 0.8))))
            turns = 1 if dice.random() < 0.9 else dice.choice([2, 3])
            messages = []
            for _ in range(turns):
                asked = max(4, int(length / turns * dice.uniform(0.15, 0.5)))
                messages.append({"role": "user", "content": take(asked)})
                messages.append({"role": "assistant", "content": take(max(4, length // turns - asked))})
            file.write(json.dumps({"messages": messages}) + "\n")


def tokenizer_of(place: Path) -> Any:
    """The tokenizer as `swift sft` has it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place / "model")


def floor(place: Path) -> tuple[Callable[[], int], Callable[[], None]]:
    """What one turn of the floor does, giving the tokens, and what comes before each turn."""
    tokenizer = tokenizer_of(place).backend_tokenizer
    with (place / "chat.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line)["messages"] for line in file]
    texts = ["".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row)[:-1] for row in rows]

    def turn() -> int:
        return sum(len(found.ids) for found in tokenizer.encode_batch(texts, add_special_tokens=False))

    return turn, lambda: None


def ours(kind: str, place: Path) -> tuple[Callable[[], int], Callable[[], None]]:
    """The same for our encoding: of rows that are read already, or of the file with or without what was kept."""
    from swift.arguments.sft import SftArguments
    from swift.commands.rows import load_rows, read_data
    from swift.datasets.cache import cache_directory
    from swift.datasets.encode import EncodedDataset, encode
    from swift.datasets.judge import processes_for
    from swift.templates.template import get_template

    template = get_template("chatml", tokenizer_of(place), "")
    args = SftArguments(dataset=[str(place / "chat.jsonl")], template_type="chatml", system="", dataset_test_ratio=0)
    if kind == "encode":
        loaded = load_rows(args)
        count = processes_for(None)
        return lambda: sum(encode(loaded.train, template, loaded.ledger, processes=count).lengths), lambda: None

    def forget() -> None:
        shutil.rmtree(cache_directory(), ignore_errors=True)

    def turn() -> int:
        train = read_data(args, template).train
        assert isinstance(train, EncodedDataset)
        return sum(train.lengths)

    return turn, forget if kind == "first" else lambda: None


def resident() -> float:
    """MB of this process and of those it started in memory now; what they share counts once."""
    children = [pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    size = 0
    for pid in ["self", *children]:
        with contextlib.suppress(OSError):  # it is over
            size += int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2].split()[0])
    return size * 1024 / 1e6


def measure_memory(kind: str, place: Path) -> None:
    """Print the most MB that reading and encoding `large.jsonl` takes beyond what there is before, as JSON."""
    from swift.arguments.sft import SftArguments
    from swift.commands.rows import read_data
    from swift.datasets.stream import Stream
    from swift.templates.template import get_template

    template = get_template("chatml", tokenizer_of(place), "")
    options: dict[str, Any] = {"streaming": True, "max_steps": 1} if kind == "stream" else {}
    file = place / "large.jsonl"
    args = SftArguments(dataset=[str(file)], template_type="chatml", system="", evaluation_strategy="no", **options)
    before = most = resident()
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.1):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    train = read_data(args, template).train
    rows = sum(1 for _ in file.open("rb"))
    if isinstance(train, Stream):
        for k, _ in enumerate(train):
            train.settle(k + 1)
            if k + 1 == rows:
                break
    over.set()
    watcher.join()
    print(json.dumps({"before": before, "more": most - before, "rows": rows}))


def write_large(place: Path, size: int) -> None:
    """`large.jsonl` of that many MB: the conversations again and again, each time a little different."""
    text = (place / "chat.jsonl").read_bytes()
    with (place / "large.jsonl").open("wb") as file:
        for k in itertools.count():
            if file.tell() >= size * 1e6:
                break
            file.write(text.replace(b'"content": "', b'"content": "%d ' % k))


def memory_table(place: Path, size: int) -> list[str]:
    """The lines of a Markdown table."""
    write_large(place, size)
    lines = ["| | rows | file MB | MB before | MB more at most | of the file |", "|---|---:|---:|---:|---:|---:|"]
    real = (place / "large.jsonl").stat().st_size / 1e6
    for kind, title in LOADS.items():
        one = ask(kind, place, 1, 1)
        numbers = f"{one['rows']:,} | {real:,.0f} | {one['before']:,.0f} | {one['more']:,.0f}"
        lines.append(f"| {title} | {numbers} | {one['more'] / real:.2f} |")
    return lines


def measure(kind: str, place: Path, turns: int) -> None:
    """Print wall and processor seconds of the best turn, and its tokens, as a line of JSON."""
    turn, before = floor(place) if kind == "floor" else ours(kind, place)
    wall, cpu, tokens = math.inf, math.inf, 0
    for _ in range(turns):
        before()
        start, spent = time.perf_counter(), sum(os.times()[:4])
        tokens = turn()
        wall = min(wall, time.perf_counter() - start)
        cpu = min(cpu, sum(os.times()[:4]) - spent)
    print(json.dumps({"wall": wall, "cpu": cpu, "tokens": tokens}))


def ask(kind: str, place: Path, turns: int, workers: int) -> dict[str, float]:
    """What `measure` prints in a process with that many tokenizer threads."""
    threads = {"RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": str(workers > 1).lower()}
    env = {**os.environ, **threads, "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--measure", kind, "--place", str(place), "--turns", str(turns)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def best_of(place: Path, turns: int) -> dict[tuple[str, int], dict[str, float]]:
    """The best turn of every kind with one and with two workers; each turn asks all of them, one after another."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(turns):
        for workers, kind in itertools.product((1, 2), KINDS):
            one, best = ask(kind, place, 1, workers), found.get((kind, workers))
            found[kind, workers] = one if best is None else {name: min(one[name], best[name]) for name in one}
    return {(kind, workers): found[kind, workers] for workers in (1, 2) for kind in KINDS}


def table(found: dict[tuple[str, int], dict[str, float]], rows: int) -> list[str]:
    """The lines of a Markdown table; the ratio is to the floor with as many workers."""
    head = ["", "workers", "wall s", "processor s", "rows/s", "tokens/s", "ratio of wall", "ratio of processor"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for (kind, workers), one in found.items():
        base = found["floor", workers]
        ratios = ["", ""] if kind == "floor" else [f"{base[name] / one[name]:.2f}" for name in ("wall", "cpu")]
        speed = [f"{rows / one['wall']:,.0f}", f"{one['tokens'] / one['wall']:,.0f}"]
        lines.append([TITLES[kind], str(workers), f"{one['wall']:.2f}", f"{one['cpu']:.2f}", *speed, *ratios])
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20000, help="how many conversations")
    parser.add_argument("--turns", type=int, default=3, help="how often each is timed")
    parser.add_argument(
        "--memory", type=int, metavar="MB", help="also measure the memory that a file of this size takes"
    )
    parser.add_argument("--out", type=Path, help="a Markdown file to write the table into")
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=[*KINDS, *LOADS], help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.measure in LOADS:
        measure_memory(said.measure, said.place)
        return 0
    if said.measure:
        measure(said.measure, said.place, said.turns)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        write_inputs(place, said.rows)
        size = (place / "chat.jsonl").stat().st_size
        found = best_of(place, said.turns)
        memory = ["", MEMORY, "", *memory_table(place, said.memory)] if said.memory else []
    tokens = {one["tokens"] for one in found.values()}
    if len(tokens) > 1:
        raise SystemExit(f"not the same tokens: {sorted(tokens)}")
    about = (
        f"{said.rows:,} conversations, {tokens.pop():,} tokens, {size / 1e6:.1f} MB; {os.cpu_count()} processor cores; "
        f"best of {said.turns}. The ratio is the floor's seconds by ours; the floor has the texts in memory, rendered. "
        "Workers are threads of the floor and processes of ours."
    )
    page = "\n".join([TITLE, "", INTRODUCTION, "", about, "", *table(found, said.rows), *memory, ""])
    print(page)
    if said.out:
        said.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

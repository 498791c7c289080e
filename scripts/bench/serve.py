"""What a server answers: 16 callers at once against one after another, with `transformers serve` beside it.

    python scripts/bench/serve.py [--model small] [--requests 48] [--clients 16] [--turns 3] [--out docs/serving.md]
    python scripts/bench/serve.py --only "swift deploy" "swift deploy, vLLM" --out docs/vllm.md

Each server runs in a process of its own with the same random model; callers ask it in streams of the OpenAI API, in
turns. Questions have 10 to 300 words and answers up to 16 to 96 tokens, greedy. `one by one` is a single caller with
the first eighth of the questions; `ratio` is how many times its tokens per second all callers together get. Seconds are
those that a caller waits for the whole answer, and for its first piece. The second line is for a Python that has vLLM.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

OURS, VLLM = "swift deploy", "swift deploy, vLLM"
BEGIN, END = "<!-- table of scripts/bench/serve.py -->", "<!-- end -->"
WORDS = 2048  # so many tokens the model knows, and all of them can be read
SECONDS_TO_START, SECONDS_TO_ANSWER = 600, 600  # the first answer of all belongs to the start


@dataclass(frozen=True)
class Answered:
    """How long a caller waited, in seconds, and for how many tokens."""

    first: float
    whole: float
    tokens: int


@dataclass(frozen=True)
class Server:
    """Where one listens, and what it calls the model."""

    name: str
    port: int
    model: str


def make(place: Path, name: str) -> Path:
    """A model of random weights whose every token is a piece of text."""
    from scripts.bench import train

    train.SHAPES["served"] = train.SHAPES[name] | {"vocab_size": WORDS}
    train.HEADS["served"] = train.HEADS[name]
    train.make_assets(place, ["served"], 1)
    return place / "served"


def draw(count: int) -> list[tuple[str, int]]:
    """Questions, and how many tokens are wanted behind each."""
    from scripts.bench.train import words

    rng, known = random.Random(7), words(4000)
    return [(" ".join(rng.choices(known[:400], k=rng.randint(10, 300))), rng.randint(16, 96)) for _ in range(count)]


def commands(model: Path, port: int) -> dict[str, list[str]]:
    """How to start each server that is installed."""
    ours = [sys.executable, "-m", "swift.cli", "deploy", "--model_id_or_path", str(model), "--template_type", "auto"]
    found = {OURS: [*ours, "--port", str(port), "--log_interval", "0"]}
    if importlib.util.find_spec("vllm"):
        said = [
            "--infer_backend",
            "vllm",
            "--dtype",
            "fp32",
            "--max_model_len",
            "1024",
            "--gpu_memory_utilization",
            "0.3",
        ]
        found[VLLM] = [*found[OURS], *said]
    theirs = Path(sys.executable).with_name("transformers")
    if theirs.exists() and importlib.util.find_spec("transformers.cli.serve"):
        line = [str(theirs), "serve", str(model), "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        found |= {"transformers serve": line, "transformers serve, batching": [*line, "--continuous-batching"]}
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(name: str, model: Path, place: Path) -> Iterator[Server | None]:
    """A server that answers; None, with a word why, where it does not."""
    port = free_port()
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # what vLLM's build for CPUs asks
    environment = {**os.environ, **cpu, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with (place / "log.txt").open("w") as log:
        process = subprocess.Popen(commands(model, port)[name], stdout=log, stderr=log, env=environment, cwd=place)
    server = Server(name, port, str(model))
    try:
        yield server if answers(server, process, place) else None
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(server: Server, process: subprocess.Popen[Any], place: Path) -> bool:
    """Whether a server, whose log is in `place`, answers a question before long."""
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS_TO_START and process.poll() is None:
        try:
            return ask(server, "hello", 4, SECONDS_TO_START).tokens > 0
        except ConnectionRefusedError:
            time.sleep(0.2)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            print(f"{server.name} does not answer: {error}"[:300], (place / "log.txt").read_text()[-500:], sep="\n")
            return False
    print(f"{server.name} did not start: {(place / 'log.txt').read_text()[-500:]}")
    return False


def ask(server: Server, text: str, tokens: int, patience: float = SECONDS_TO_ANSWER) -> Answered:
    """One question, its answer in a stream."""
    body = {"model": server.model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
            "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
    if server.name in (OURS, VLLM):
        body["model"] = Path(server.model).name
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=patience)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read(300)!r}")
    first, counted = 0.0, 0
    for line in response:
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            continue
        chunk = json.loads(line[5:])
        if "error" in chunk:
            raise RuntimeError(str(chunk["error"]))
        said = any(choice["delta"].get("content") for choice in chunk["choices"])
        first = first or (time.perf_counter() - begun if said else 0.0)
        counted = (chunk.get("usage") or {}).get("completion_tokens") or counted
    connection.close()
    whole = time.perf_counter() - begun
    return Answered(first or whole, whole, counted)


def load(server: Server, questions: Sequence[tuple[str, int]], clients: int) -> tuple[float, list[Answered]]:
    """Tokens per second of so many callers, and what each question took."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda question: ask(server, *question), questions))
    return sum(each.tokens for each in found) / (time.perf_counter() - begun), found


def share(values: Sequence[float], part: float) -> float:
    """What so large a part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def rows_of(found: dict[str, list[tuple[float, float, list[Answered]]]], clients: int) -> list[str]:
    """A row of the table for each server: (one by one, together, each answer) of its turns."""
    heads = ["", "one by one, tokens/s", f"{clients} at once, tokens/s", "ratio", "first piece p50, p99 (s)",
             "answer p50, p99 (s)"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, turns in found.items():
        alone = statistics.median(turn[0] for turn in turns)
        together = statistics.median(turn[1] for turn in turns)
        every = [each for turn in turns for each in turn[2]]
        first, whole = [each.first for each in every], [each.whole for each in every]
        waits = [f"{share(values, 0.5):.2f}, {share(values, 0.99):.2f}" for values in (first, whole)]
        lines.append(f"| {name} | {alone:.0f} | {together:.0f} | {together / alone:.1f} | {' | '.join(waits)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=("tiny", "small"))
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of servers")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    questions = draw(args.requests)
    with contextlib.ExitStack() as leaving:
        place = Path(leaving.enter_context(tempfile.TemporaryDirectory()))
        model = make(place, args.model)
        servers = []
        for name in args.only or commands(model, 0):
            own = place / name.replace(" ", "-")
            own.mkdir()
            servers.append(leaving.enter_context(serving(name, model, own)))
        found: dict[str, list[tuple[float, float, list[Answered]]]] = {each.name: [] for each in servers if each}
        for _ in range(args.turns):
            for server in filter(None, servers):
                alone, _ = load(server, questions[: max(1, len(questions) // 8)], 1)
                together, every = load(server, questions, args.clients)
                found[server.name].append((alone, together, every))
        text = "\n".join(rows_of(found, args.clients))
    print(text)
    if args.out:
        page = args.out.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        args.out.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()

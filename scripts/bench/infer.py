"""What an answer costs, next to `model.generate` and a loop written by hand.

    python scripts/bench/infer.py [--model small] [--prompts 64] [--turns 3] [--out docs/serving.md]

All continue the same prompts greedily with the same random model in this process, in turns. `even` are answers of 64
tokens each, `mixed` ones of 8 to 120 to prompts of 10 to 400 tokens: a batch from beginning to end goes on until its
longest answer, and only tokens that were asked for count. `by hand` is a loop for this one model: prompts sorted by
length, one forward pass a token, nothing else. `passes` is the share of its time that swift spends in the model.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

BEGIN, END = "<!-- table of scripts/bench/infer.py -->", "<!-- end -->"
EVEN = 64


def make(place: Path, name: str) -> tuple[Any, Any]:
    """A model of random weights and the template of its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from scripts.bench.train import make_assets
    from swift.llm import get_template

    make_assets(place, [name], 1)
    model = AutoModelForCausalLM.from_pretrained(place / name, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    return model, get_template("auto", AutoTokenizer.from_pretrained(place / name))


def draw(count: int, vocabulary: int, mixed: bool) -> list[tuple[list[int], int]]:
    """Ids of prompts, and how many tokens are wanted behind each."""
    rng = random.Random(7)
    sizes = [
        (rng.randint(10, 400), rng.randint(8, 120)) if mixed else (rng.randint(20, 60), EVEN) for _ in range(count)
    ]
    return [([rng.randrange(10, vocabulary) for _ in range(tokens)], new) for tokens, new in sizes]


def by_generate(model: Any, rows: list[tuple[list[int], int]], size: int) -> None:
    """`model.generate`, `size` rows at once."""
    import torch

    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        width = max(len(ids) for ids, _ in batch)
        padded = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in batch])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in batch])
        longest = max(new for _, new in batch)
        model.generate(padded, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False,
                       pad_token_id=0)  # fmt: skip


def by_hand(model: Any, rows: list[tuple[list[int], int]], size: int) -> None:
    """As little as a loop can do."""
    import torch

    ordered = sorted(rows, key=lambda row: len(row[0]))
    with torch.inference_mode():
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            width, longest = max(len(ids) for ids, _ in batch), max(new for _, new in batch)
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in batch])
            pads = torch.tensor([[width - len(prompt)] for prompt, _ in batch])
            mask = (torch.arange(width + longest)[None] >= pads).long()
            places = (mask.cumsum(1) - 1).clamp(min=0)
            cache, begun = None, 0
            for step in range(longest):
                end = width + step
                output = model.model(input_ids=ids, attention_mask=mask[:, :end], position_ids=places[:, begun:end],
                                     past_key_values=cache, use_cache=True)  # fmt: skip
                cache, begun = output.past_key_values, end
                ids = model.lm_head(output.last_hidden_state[:, -1:]).argmax(-1)


def by_swift(model: Any, template: Any, rows: list[tuple[list[int], int]], size: int) -> None:
    """The engine under `swift infer`."""
    from transformers import GenerationConfig

    from swift.inference.answer import Reader
    from swift.inference.batching import Batching
    from swift.inference.engine import Request

    plain = [(ids, GenerationConfig(max_new_tokens=new, do_sample=False)) for ids, new in rows]
    requests = [Request(ids, config, Reader(template, [])) for ids, config in plain]
    longest_first = sorted(requests, key=lambda request: -len(request.prompt_ids))
    for generation in Batching(model, size).run(longest_first):
        assert len(generation.ids) == generation.request.config.max_new_tokens


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock and of the processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def share_of_passes(model: Any, work: Callable[[], None]) -> float:
    """How much of its time some work spends in the model's forward."""
    spent, begun = 0.0, 0.0

    def before(*_: Any) -> None:
        nonlocal begun
        begun = time.perf_counter()

    def after(*_: Any) -> None:
        nonlocal spent
        spent += time.perf_counter() - begun

    hooks = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    wall, _ = timed(work)
    for hook in hooks:
        hook.remove()
    return spent / wall


def table(model: Any, template: Any, prompts: int, turns: int) -> list[str]:
    """Rows of Markdown: useful tokens per second, and how that compares."""
    lines = ["| answers | | tokens/s | of `by hand` | CPU ms/token |", "|---|---|---|---|---|"]
    for kind in ("even", "mixed"):
        rows = draw(prompts, model.config.vocab_size, kind == "mixed")
        tokens = sum(new for _, new in rows)
        runners: dict[str, Callable[[], None]] = {
            "generate, 1 at once": lambda rows=rows: by_generate(model, rows[:8], 1),
            "generate, 8 at once": lambda rows=rows: by_generate(model, rows, 8),
            "generate, 64 at once": lambda rows=rows: by_generate(model, rows, 64),
            "by hand, 64 at once": lambda rows=rows: by_hand(model, rows, 64),
            "**swift**": lambda rows=rows: by_swift(model, template, rows, 64),
        }
        spans: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
        for _ in range(turns):
            for name, work in runners.items():
                spans[name].append(timed(work))
        done = {name: sum(new for _, new in rows[:8]) if name.endswith("1 at once") else tokens for name in runners}
        speed = {name: done[name] / statistics.median(wall for wall, _ in found) for name, found in spans.items()}
        cpu = {name: 1000 * statistics.median(c for _, c in found) / done[name] for name, found in spans.items()}
        hand = speed["by hand, 64 at once"]
        lines += [f"| {kind} | {n} | {speed[n]:.0f} | {speed[n] / hand:.2f} | {cpu[n]:.2f} |" for n in runners]
        if kind == "even":
            share = share_of_passes(model, runners["**swift**"])
    return [*lines, "", f"swift spends {100 * share:.0f} % of its time in the model's forward passes."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", choices=("tiny", "small", "big-vocab"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model, template = make(Path(place), args.model)
        text = "\n".join(table(model, template, args.prompts, args.turns))
    print(text)
    if args.out:
        page = args.out.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        args.out.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()

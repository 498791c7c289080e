"""What a step of training costs, next to loops written by hand.

    python scripts/bench/train.py [--models small big-vocab] [--dtypes fp32 bf16] [--methods lora full]
        [--steps 40] [--turns 3] [--out docs/performance.md]

`by hand` is a plain loop: random rows, padding, PEFT's LoRA, whole logits. `optimised` is as good as a loop for this
one model gets: rows of like length, logits at supervised tokens in chunks, one function per LoRA layer, no PEFT.
`trainer` is transformers' own. `swift` is `swift sft` with its defaults, and each of its switches turned off alone, or
on where it is off.

All take turns, each run in a process of its own, on the same models, rows and settings: LoRA of rank 8 on all linear
layers without dropout, 4 rows x 2, at most 512 tokens, AdamW. A probe in each counts processor time from one optimiser
step to the next, and the tokens that are no padding; the first steps are left out. Processor milliseconds per token are
what a shared machine leaves comparable; `others` is the share of the processors that other programs had.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPES = {
    "tiny": {"vocab_size": 2048, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128},
    "small": {"vocab_size": 32768, "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408},
    "big-vocab": {"vocab_size": 151936, "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024},
}
HEADS = {"tiny": 4, "small": 8, "big-vocab": 4}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OURS: dict[str, list[str]] = {
    "swift": [],
    "swift, whole logits": ["--fused_cross_entropy", "false"],
    "swift, PEFT's layers": ["--fused_lora", "false"],
    "swift, random order": ["--group_by_length", "false"],
    "swift, checkpointing": ["--gradient_checkpointing", "true"],
    "swift, AdamW in many passes": ["--optim", "adamw_torch"],
    "swift, without padding": ["--padding_free", "true"],
    "swift, 1,024 tokens a batch": ["--max_tokens_per_batch", "1024"],
    "swift, torch.compile": ["--torch_compile", "true"],
}
BATCH, ACCUMULATION, LONGEST, RANK, ALPHA, RATE = 4, 2, 512, 8, 16, 1e-4
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROBE = "TRAIN_PROBE"


# What is trained


def words(count: int) -> list[str]:
    """Made-up words, the frequent ones first and short."""
    draw, syllables = random.Random(0), [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    return ["".join(draw.choices(syllables, k=1 + min(k // 200, 3))) for k in range(count)]


def make_assets(place: Path, models: list[str], rows: int) -> None:
    """A tokenizer, `rows` chats with lengths as chats have them, and the models, all from seeds."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_data(place, rows)
    for name in models:
        torch.manual_seed(0)
        heads = {"num_attention_heads": HEADS[name], "num_key_value_heads": HEADS[name] // 2}
        ids = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None}
        config = Qwen2Config(**SHAPES[name], **heads, **ids, tie_word_embeddings=True, max_position_embeddings=4096)
        Qwen2ForCausalLM(config).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)


def make_data(place: Path, rows: int) -> Any:
    """The tokenizer of `rows` chats, which are written to `place`."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    draw, vocabulary = random.Random(1), words(4000)
    weights = [1 / (k + 3) for k in range(len(vocabulary))]

    def text(tokens: float) -> str:
        return " ".join(draw.choices(vocabulary, weights, k=max(2, round(tokens))))

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([text(1000) for _ in range(100)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    tokenizer.chat_template = CHATML
    with (place / "chat.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(rows):
            length = min(1500, max(16, draw.lognormvariate(math.log(100), 0.8)))
            share = draw.uniform(0.15, 0.5)
            chat = [("user", text(length * share)), ("assistant", text(length * (1 - share)))]
            line = {"messages": [{"role": role, "content": content} for role, content in chat]}
            file.write(json.dumps(line) + "\n")
    return tokenizer


# The probe, the same in every process


def install_probe() -> list[dict[str, float]]:
    """Note time and tokens at every optimiser step of whatever this process trains."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from transformers import Qwen2ForCausalLM, Qwen2Model

    steps: list[dict[str, float]] = []
    seen = {"real": 0, "padded": 0, "inside": 0.0}
    plain = Qwen2Model.forward

    @functools.wraps(plain)
    def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if ids is not None and model.training:
            seen["padded"] += ids.numel()
            seen["real"] += ids.numel() if mask is None else int(mask.sum())
        return plain(model, *args, **kwargs)

    def stepped(*_: Any) -> None:
        steps.append({"cpu": time.process_time(), "wall": time.perf_counter(), "busy": busy_seconds(), **seen})

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                seen["inside"] += time.process_time() - start

        return run

    Qwen2Model.forward = forward  # type: ignore[method-assign]
    Qwen2ForCausalLM.forward = timed(Qwen2ForCausalLM.forward)  # type: ignore[method-assign]
    torch.Tensor.backward = timed(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.optim.AdamW.step = timed(torch.optim.AdamW.step)  # type: ignore[method-assign]
    register_optimizer_step_post_hook(stepped)
    return steps


def busy_seconds() -> float:
    """What all programs took of the processors so far; 0 where the system does not tell."""
    stat = Path("/proc/stat")
    fields = stat.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:] if stat.is_file() else []
    return sum(int(fields[k]) for k in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def figures(steps: list[dict[str, float]], warm: int) -> dict[str, float]:
    """Costs between step `warm` and the last."""
    first, last = steps[min(warm, len(steps) - 2)], steps[-1]
    change = {key: last[key] - first[key] for key in first}
    return {
        "ms": 1000 * change["cpu"] / change["real"],
        "speed": change["real"] / change["wall"],
        "padding": change["padded"] / change["real"],
        "frame": 1 - change["inside"] / change["cpu"],
        "foreign": max(0.0, (change["busy"] - change["cpu"]) / (change["wall"] * (os.cpu_count() or 1))),
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


# The ways to train


def encoded(said: argparse.Namespace) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and labels of every row that is drawn, cut at the longest."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(said.model)
    lines = Path(said.data).read_text(encoding="utf-8").splitlines()
    drawn = random.Random(0).sample(lines, min(len(lines), said.steps * BATCH * ACCUMULATION))
    ids, labels = [], []
    for line in drawn:
        row: tuple[list[int], list[int]] = ([], [])
        for message in json.loads(line)["messages"]:
            parts = (f"<|im_start|>{message['role']}\n", message["content"] + "<|im_end|>", "\n")
            for k, part in enumerate(tokenizer(list(parts), add_special_tokens=False)["input_ids"]):
                row[0].extend(part)
                row[1].extend(part if k == 1 and message["role"] == "assistant" else [-100] * len(part))
        ids.append(row[0][:LONGEST])
        labels.append(row[1][:LONGEST])
    return ids, labels


def load(said: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        said.model, dtype={"fp32": torch.float32}.get(said.dtype, torch.bfloat16)
    )


def tuned(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(LINEAR)))


def loop(model: Any, batches: list[list[int]], rows: Any, loss: Callable[..., Any]) -> None:
    """Forward, backward, clip, step."""
    import torch

    ids, labels = rows
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    model.train()
    for start in range(0, len(batches), ACCUMULATION):
        group = batches[start : start + ACCUMULATION]
        count = sum(label != -100 for batch in group for k in batch for label in labels[k][1:])
        for batch in group:
            width = max(len(ids[k]) for k in batch)

            def pad(values: list[list[int]], fill: int, batch: list[int] = batch, width: int = width) -> Any:
                return torch.tensor([values[k] + [fill] * (width - len(values[k])) for k in batch])

            mask = pad([[1] * len(one) for one in ids], 0)
            (loss(model, pad(ids, 0), mask, pad(labels, -100)) / count).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def by_hand(said: argparse.Namespace) -> None:
    """Random order, PEFT, whole logits."""
    import torch.nn.functional as F

    def loss(model: Any, ids: Any, mask: Any, labels: Any) -> Any:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")

    rows, model = encoded(said), load(said)
    order = list(range(len(rows[0])))
    batches = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]
    loop(tuned(model) if said.method == "lora" else model, batches, rows, loss)


def optimised(said: argparse.Namespace) -> None:
    """Rows of like length, a function for each LoRA layer, logits at supervised tokens in chunks."""
    import torch
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint

    class Update(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any) -> Any:
            flat = x.reshape(-1, x.shape[-1])
            low = flat @ a.t()
            y = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
            y.addmm_(low, b.t(), alpha=ALPHA / RANK)
            ctx.save_for_backward(flat, weight, a, b, low)
            ctx.shape = x.shape
            return y.view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            flat, weight, a, b, low = ctx.saved_tensors
            y = grads[0].reshape(-1, grads[0].shape[-1])
            of_low = (y @ b).mul_(ALPHA / RANK)
            of_x = (y @ weight).addmm_(of_low, a).view(ctx.shape)
            return of_x, None, None, of_low.t() @ flat, (y.t() @ low).mul_(ALPHA / RANK)

    class Layer(torch.nn.Module):
        def __init__(self, base: Any) -> None:
            super().__init__()
            self.weight, self.bias = base.weight, base.bias
            self.a = torch.nn.Parameter(torch.randn(RANK, base.in_features) * 0.02)
            self.b = torch.nn.Parameter(torch.zeros(base.out_features, RANK))

        def forward(self, x: Any) -> Any:
            return Update.apply(x, self.weight, self.bias, self.a.to(x.dtype), self.b.to(x.dtype))

    class Head(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
            grad, total = torch.empty_like(hidden), 0.0
            for part in (slice(k, k + 512) for k in range(0, len(targets), 512)):
                logits = (hidden[part] @ weight.t()).float()
                chosen = targets[part, None]
                top = torch.logsumexp(logits, -1, keepdim=True)
                total += float((top - logits.gather(1, chosen)).sum())
                p = logits.sub_(top).exp_()
                p.scatter_add_(1, chosen, p.new_full(chosen.shape, -1.0))
                grad[part] = p.to(hidden.dtype) @ weight
            ctx.save_for_backward(grad)
            return torch.tensor(total)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return ctx.saved_tensors[0] * grads[0].to(ctx.saved_tensors[0].dtype), None, None

    def checked(hidden: Any, weight: Any, targets: Any) -> Any:
        def piece(h: Any, t: Any) -> Any:
            return F.cross_entropy((h @ weight.t()).float(), t, reduction="sum")

        pairs = zip(hidden.split(1024), targets.split(1024), strict=True)
        return sum(checkpoint(piece, h, t, use_reentrant=False) for h, t in pairs)  # type: ignore[misc]

    def loss(model: Any, ids: Any, mask: Any, labels: Any) -> Any:
        on = labels[:, 1:] != -100
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][on]
        through = Head.apply if said.method == "lora" else checked
        return through(hidden, model.lm_head.weight, labels[:, 1:][on])

    rows, model = encoded(said), load(said)
    if said.method == "lora":
        model.requires_grad_(False)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if name in LINEAR:
                    setattr(module, name, Layer(child))
    order = sorted(range(len(rows[0])), key=lambda k: len(rows[0][k]))
    batches = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]
    random.Random(0).shuffle(batches)
    loop(model, batches, rows, loss)


def trainer(said: argparse.Namespace) -> None:
    """Transformers' Trainer, as its users write it."""
    import torch
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    (ids, labels), model = encoded(said), load(said)
    rows = [{"input_ids": i, "labels": t, "attention_mask": [1] * len(i)} for i, t in zip(ids, labels, strict=True)]
    args = TrainingArguments(
        tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATION,
        max_steps=said.steps,
        learning_rate=RATE,
        save_strategy="no",
        report_to="none",
        logging_steps=10,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(said.model))
    model = tuned(model) if said.method == "lora" else model
    Trainer(model, args, train_dataset=rows, data_collator=collator).train()  # type: ignore[arg-type]


def swift(said: argparse.Namespace) -> None:
    """`swift sft`, with its defaults but for what all are told, and `said.more`."""
    from swift.llm import sft_main

    out = tempfile.mkdtemp()
    told: dict[str, Any] = {
        "model_id_or_path": said.model,
        "dataset": said.data,
        "sft_type": said.method,
        "dtype": said.dtype,
        "max_length": LONGEST,
        "batch_size": BATCH,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": said.steps,
        "learning_rate": RATE,
        "output_dir": out,
        "dataset_test_ratio": 0,
        "evaluation_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if said.method == "lora":
        told |= {"lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout": 0, "lora_target_modules": "ALL"}
    sft_main([word for name, value in told.items() for word in (f"--{name}", str(value))] + said.more)


WAYS: dict[str, Callable[[argparse.Namespace], None]] = {
    "by hand": by_hand,
    "optimised": optimised,
    "trainer": trainer,
    **dict.fromkeys(OURS, swift),
}


# Turns and the table


def child(said: argparse.Namespace) -> None:
    """Train one way in this process, and write what the probe saw."""
    steps = install_probe()
    said.more = OURS.get(said.way, [])
    WAYS[said.way](said)
    Path(said.probe).write_text(json.dumps(figures(steps, said.warm)), encoding="utf-8")


def run(place: Path, way: str, model: str, dtype: str, method: str, said: argparse.Namespace) -> dict[str, float]:
    """The figures of one run in a process of its own."""
    probe = place / "probe.json"
    options = {
        "way": way,
        "model": place / model,
        "data": place / "chat.jsonl",
        "dtype": dtype,
        "method": method,
        "steps": said.steps,
        "warm": said.warm,
        "probe": probe,
    }
    command = [sys.executable, __file__, *(str(word) for key, value in options.items() for word in (f"--{key}", value))]
    if said.flame:
        words = re.findall(r"\w+", way)
        graph = said.flame.resolve().with_stem("-".join([said.flame.stem, model, dtype, method, *words]))
        command = [sampler(), "record", "--rate", "200", "--output", str(graph), "--", *command]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if way in OURS:
        env.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command does for itself
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    return json.loads(probe.read_text(encoding="utf-8"))


def sampler() -> str:
    """Where py-spy is: beside this Python, or anywhere on the path."""
    own = Path(sys.executable).with_name("py-spy")
    found = str(own) if own.is_file() else shutil.which("py-spy")
    if found is None:
        raise SystemExit("--flame needs py-spy: pip install py-spy")
    return found


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Lines of a table: medians over the turns, beside the loop by hand and the optimised one."""
    middle = {way: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for way, runs in found.items()}
    lines = [
        "| way | CPU ms/token | ratio to by hand | ratio to optimised | tokens/s | padded/real | peak MiB | frame |"
        " others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for way, one in middle.items():
        ratios = [
            f"{one['ms'] / middle[base]['ms']:.2f}" if base in middle else "" for base in ("by hand", "optimised")
        ]
        rest = [f"{one[key]:{form}}" for key, form in (("speed", ".0f"), ("padding", ".2f"), ("mib", ".0f"))]
        frame = f"{100 * one['frame']:.1f} %" if way in OURS or way == "trainer" else ""
        cells = [way, f"{one['ms']:.3f}", *ratios, *rest, frame, f"{one['foreign']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def write(path: Path, lines: list[str], script: str = "train.py") -> None:
    """Put the tables where the page has those of that script; the page's own words stay."""
    begin, end = f"<!-- {script} begins -->", f"<!-- {script} ends -->"
    page = path.read_text(encoding="utf-8") if path.is_file() else f"{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    path.write_text("\n".join([before + begin, "", *lines, "", end + rest.partition(end)[2]]), encoding="utf-8")


def standing(path: Path) -> dict[str, list[str]]:
    """The tables that a page has, by what they are of, in their order."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = page.partition("<!-- train.py begins -->")[2].partition("<!-- train.py ends -->")[0]
    parts = [part.strip().splitlines() for part in f"\n{block}".split("\n### ")[1:]]
    return {name: rest for name, *rest in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small", "big-vocab"], choices=SHAPES)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--methods", nargs="+", default=["lora", "full"], choices=["lora", "full"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--rows", type=int, default=20000, help="chats to draw from")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm", type=int, default=5, help="steps that are left out")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the tables into this page too; others of it stay")
    parser.add_argument("--flame", type=Path, help="keep a flame graph of every run here, by its way (needs py-spy)")
    for name in ("way", "model", "data", "dtype", "method", "probe"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.way:
        child(said)
        return
    turns = f"median of {said.turns} turns" if said.turns > 1 else "one turn"
    how = f"{said.steps} steps, the first {said.warm} left out; {turns}; {said.rows} rows."
    tables = standing(said.out) if said.out else {}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        make_assets(place, said.models, said.rows)
        for model, dtype, method in ((m, d, t) for m in said.models for d in said.dtypes for t in said.methods):
            ways = [way for way in said.ways if method == "lora" or way not in ("swift, PEFT's layers",)]
            found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            for _ in range(said.turns):
                for way in ways:
                    found[way].append(run(place, way, model, dtype, method, said))
            name = f"{model}, {method}, {dtype}"
            tables[name] = ["", how, "", *table(found)]
            print("\n".join(["", f"### {name}", *tables[name]]), flush=True)
            if said.out:
                lines = ["\n".join([f"### {each}", *rest, ""]) for each, rest in tables.items()]
                write(said.out, "\n".join(lines).rstrip().splitlines())


if __name__ == "__main__":
    main()

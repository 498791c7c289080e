"""Training from scratch on two CPU cores: every step's text is drawn from its number, so that a run can be repeated.

Shape suffixes: B rows of a part of a batch, T tokens, D width, V vocabulary, S supervised tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM

from demo.tokens import END, IGNORED, STOP, Coder, Encoded

THREADS = 2
ROWS_OF_A_PART = 22
WARMUP = 60


@dataclass(frozen=True)
class Stage:
    """A stretch of training: warm-up, a constant rate, then down to nothing.

    Attributes:
        name: of the stage; also seeds what is drawn.
        steps: how many there are.
        decay: over how many of the last the rate goes down.
        rate: the constant learning rate.
        rows: how many are in a batch.
        draw: one row of training text.
    """

    name: str
    steps: int
    decay: int
    rate: float
    rows: int
    draw: Callable[[random.Random], Encoded]

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.rate * min(1.0, (step + 1) / WARMUP, (self.steps - step) / self.decay)


def new_model(coder: Coder, **shape: int) -> Qwen2ForCausalLM:
    """A Qwen2 model of a few million random weights."""
    torch.manual_seed(0)
    stop, end = coder.ids(STOP)[0], coder.ids(END)[0]
    sizes = {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "intermediate_size": 512,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        **shape,
    }
    config = Qwen2Config(
        vocab_size=coder.tokenizer.get_vocab_size(),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.03,
        bos_token_id=None,
        eos_token_id=stop,
        pad_token_id=end,
        use_cache=True,
        attn_implementation="eager",
        **sizes,
    )
    return Qwen2ForCausalLM(config)


def train(model: Qwen2ForCausalLM, stage: Stage, kept: Path, every: int = 250) -> None:
    """Train in place; the state before the decay and every so many steps goes to `kept`, to go on from."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    first = _restore(model, optimizer, kept)
    weights = list(model.parameters())
    pool = ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,))
    model.train()
    begun, tokens = time.monotonic(), 0
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(step)
        rng = random.Random(f"{stage.name} {step}")
        rows = sorted((stage.draw(rng) for _ in range(stage.rows)), key=lambda row: len(row[0]))
        loss = _step(model, weights, rows, pool)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(ids) for ids, _ in rows)
        if (step + 1) % 25 == 0:
            speed = tokens / (time.monotonic() - begun)
            print(f"{stage.name} {step + 1}/{stage.steps} loss {loss:.3f} {speed:,.0f} tokens/s", flush=True)
        if (step + 1) % every == 0 or step + 1 in (stage.steps - stage.decay, stage.steps):
            _keep(model, optimizer, step + 1, kept)


def _step(
    model: Qwen2ForCausalLM, weights: list[torch.nn.Parameter], rows: list[Encoded], pool: ThreadPoolExecutor
) -> float:
    """Set the gradient of the mean loss of all supervised tokens; that loss.

    Every part is computed by one thread, and the parts are added in their order: the same sum every time.
    """
    supervised = sum(label != IGNORED for _, labels in rows for label in labels[1:])
    parts = [rows[first : first + ROWS_OF_A_PART] for first in range(0, len(rows), ROWS_OF_A_PART)]
    done = list(pool.map(lambda part: _learn(model, weights, part, supervised), parts[::-1]))
    for number, weight in enumerate(weights):
        weight.grad = torch.stack([gradients[number] for _, gradients in done]).sum(0)
    return sum(loss for loss, _ in done)


def _learn(
    model: Qwen2ForCausalLM, weights: list[torch.nn.Parameter], rows: list[Encoded], supervised: int
) -> tuple[float, Sequence[torch.Tensor]]:
    """What some rows add to the mean loss of a step, and its gradient."""
    length = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
    labels_BT = torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows])[:, 1:]
    learnt_BT = labels_BT != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
        logits_SV = model.lm_head(hidden_BTD[:, :-1][learnt_BT])
    loss = functional.cross_entropy(logits_SV.float(), labels_BT[learnt_BT], reduction="sum") / supervised
    return loss.item(), torch.autograd.grad(loss, weights)


def _keep(model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, step: int, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, kept / "new.pt")
    (kept / "new.pt").replace(kept / "state.pt")


def _restore(model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, kept: Path) -> int:
    """Go on from what is kept; the step to begin with."""
    file = kept / "state.pt"
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])

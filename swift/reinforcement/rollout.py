"""Answers of the model as it is now, by the engine of `swift infer`.

What is written depends on the weights, the seed, the step and the row alone, and not on what else is asked at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from swift.datasets.prompts import Prompt
from swift.inference.answer import Reader
from swift.inference.engine import Request
from swift.inference.generate import choose_engine
from swift.inference.settings import prepare_generation_config, require_room
from swift.reinforcement.rewards import Answer
from swift.templates.encoding import Template

SLOTS = 64
"""Answers that are written at once, where their memory allows."""


def seed_of(seed: int, step: int, number: int, which: int) -> int:
    """The seed of one answer: of the run's, the step, the row and which answer to it this is."""
    digest = hashlib.blake2b(f"{seed} {step} {number} {which}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**63


def write_answers(
    model: Any, template: Template, prompts: Sequence[Prompt], said: GenerationConfig, count: int, seed: int, step: int
) -> list[Answer]:
    """So many answers to every prompt, those to one prompt one after another.

    Args:
        model: with its tuners.
        template: that the prompts were encoded with.
        prompts: what is asked.
        said: how answers are sampled.
        count: answers to each prompt.
        seed: of the run.
        step: which of its steps.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    engine = choose_engine(model, prepare_generation_config(model, template, said), SLOTS)
    places: dict[int, tuple[int, Request]] = {}

    def requests() -> Iterator[Request]:
        for place, prompt in enumerate(prompts):
            config = prepare_generation_config(model, template, said, num_prompt_tokens=len(prompt.ids))
            require_room(model, config, len(prompt.ids))
            for which in range(count):
                reader = Reader(template, config.eos_token_id)
                request = Request(prompt.ids.tolist(), config, reader, seed_of(seed, step, prompt.number, which))
                places[id(request)] = place * count + which, request
                yield request

    with answering(model):
        found: dict[int, Answer] = {}
        for generation in engine.run(requests()):
            place, request = places.pop(id(generation.request))
            text = request.reader.whole(generation.ids)
            cut = generation.finish_reason == "length"
            found[place] = Answer(prompts[place // count], list(generation.ids), text, cut)
    return [found[place] for place in range(len(prompts) * count)]


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Without dropout inside the block; afterwards it trains as before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)

"""Evaluation by generation: what a model in training answers to the rows it is evaluated on, beside what they say.

Of a row the last reply is asked for; what stands before it is the prompt, token for token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from swift.errors import ConfigError
from swift.inference.answer import Reader
from swift.inference.engine import Request
from swift.inference.generate import ROWS, choose_engine
from swift.inference.metrics import score
from swift.inference.settings import prepare_generation_config
from swift.log import get_logger
from swift.templates.encoding import Template
from swift.trainers.loss import IGNORED

logger = get_logger()
SCORES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4", "exact")
GEN_LEN, GEN_TIME = "gen_len", "gen_time"
NAMES = (*SCORES, GEN_LEN, "rows")


@dataclass(frozen=True)
class Question:
    """The number of a row, the ids up to its last reply, and those of this reply with its end."""

    number: int
    prompt_ids: list[int]
    label_ids: list[int]


def question_of(number: int, row: Mapping[str, Any]) -> Question | None:
    """What an encoded row asks; None where nothing stands before its last reply, or it has none."""
    ids, labels = list(row["input_ids"]), list(row["labels"])
    end = max((k for k, label in enumerate(labels, 1) if label != IGNORED), default=0)
    start = end
    while start and labels[start - 1] != IGNORED:
        start -= 1
    return Question(number, ids[:start], labels[start:end]) if start else None


def predict(
    model: Any,
    template: Template,
    rows: Sequence[Mapping[str, Any]],
    said: GenerationConfig | None,
    *,
    slots: int,
    seed: int,
    share: tuple[int, int] = (1, 0),
) -> list[float]:
    """Sums over rows of what `NAMES` says, scores from 0 to 1.

    Args:
        model: with its tuners.
        template: that the rows were encoded with.
        rows: encoded.
        said: how answers are generated; None is the model's own way.
        slots: rows that are answered at once.
        seed: of sampling; each row draws from this and its number, so that others change nothing.
        share: of how many processes this is which; each answers its part of the rows.

    Raises:
        ConfigError: no row has a prompt.
    """
    found = [question_of(number, rows[number]) for number in range(len(rows))]
    questions = [question for question in found if question is not None]
    if not questions:
        what = "--predict_with_generate: no row to evaluate on has a prompt before its reply"
        raise ConfigError("CONFIG-02", what, fix="rows with questions, and no --loss_scale all")
    if len(questions) < len(found):
        logger.warning(f"{len(found) - len(questions)} of {len(found)} rows have no prompt: they are not generated")
    processes, own = share
    sums: dict[str, float] = dict.fromkeys(NAMES, 0.0)
    for answer, label, tokens in _answers(model, template, questions[own::processes], said, slots, seed):
        for name, value in score(answer, label).items():
            sums[name] += value
        sums[GEN_LEN] += tokens
        sums["rows"] += 1
    return list(sums.values())


def means(sums: Sequence[float], started: float) -> dict[str, float]:
    """Percents of scores, the mean length of answers in tokens, and the seconds since `started`."""
    totals = dict(zip(NAMES, sums, strict=True))
    rows = totals.pop("rows")
    found = {name: (100 if name in SCORES else 1) * total / rows for name, total in totals.items()}
    return {**found, GEN_TIME: time.perf_counter() - started}


def _answers(
    model: Any, template: Template, questions: Sequence[Question], said: GenerationConfig | None, slots: int, seed: int
) -> Iterator[tuple[str, str, int]]:
    """The answer, the label and how many tokens were generated, of each question, the longest first."""
    asked: dict[int, Question] = {}
    engine = choose_engine(model, prepare_generation_config(model, template, said), slots)

    def requests() -> Iterator[Request]:
        for question in sorted(questions, key=lambda each: -len(each.prompt_ids)):
            length = len(question.prompt_ids)
            config = prepare_generation_config(model, template, said, num_prompt_tokens=length)
            config.max_new_tokens = max(1, config.max_new_tokens)
            reader = Reader(template, config.eos_token_id)
            request = Request(question.prompt_ids, config, reader, (seed * ROWS + question.number) % 2**63)
            asked[id(request)] = question
            yield request

    for generation in engine.run(requests()):
        reader, question = generation.request.reader, asked.pop(id(generation.request))
        yield reader.whole(generation.ids), reader.whole(question.label_ids), len(generation.ids)

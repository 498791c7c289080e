"""Answers that are written while training: rows of a batch with another last reply.

What is drawn depends on the seed, the step and the place of a row in it alone, so that a run that goes on, or that cuts
its steps in another way, draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from swift.datasets.encode import DATASET_NUMBER
from swift.inference.answer import Reader
from swift.inference.engine import Request
from swift.inference.generate import choose_engine
from swift.inference.settings import prepare_generation_config
from swift.templates.encoding import Template
from swift.trainers.loss import IGNORED
from swift.trainers.packs import row_of_token
from swift.trainers.predicting import question_of

Row = Mapping[str, Any]
SCALE = "loss_scale"
MOST_SEED = 2**63


def draw(seed: int, step: int) -> float:
    """A number from 0 to 1 for a step."""
    return float(np.random.default_rng([seed, step]).random())


def seed_of(seed: int, step: int, place: int) -> int:
    """What the answer to a row of a step is sampled with."""
    return int(np.random.default_rng([seed, step, place]).integers(MOST_SEED))


def rows_of(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that a batch was made of, as lists; of one without padding too."""
    ids_BT, labels_BT, scale_BT = batch["input_ids"], batch["labels"], batch.get(SCALE)
    columns = {"input_ids": ids_BT, "labels": labels_BT, **({} if scale_BT is None else {SCALE: scale_BT})}
    mask_BT = batch.get("attention_mask")
    if mask_BT is None:
        sizes = torch.bincount(row_of_token(batch["position_ids"])).tolist()
        split = {name: [part.tolist() for part in column[0].split(sizes)] for name, column in columns.items()}
    else:
        split = {
            name: [row[on].tolist() for row, on in zip(column, mask_BT.bool(), strict=True)]
            for name, column in columns.items()
        }
    rows = [dict(zip(split, values, strict=True)) for values in zip(*split.values(), strict=True)]
    numbers = batch.get(DATASET_NUMBER)
    return rows if numbers is None else [{**row, DATASET_NUMBER: int(numbers[k])} for k, row in enumerate(rows)]


@dataclass(frozen=True)
class Writer:
    """Writes answers.

    Attributes:
        config: how answers are sampled.
        slots: how many at once.
    """

    config: GenerationConfig
    slots: int

    @torch.no_grad()
    def answered(self, model: Any, template: Template, rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
        """The rows with a reply of the model in place of their last one; those without a prompt stay as they are.

        Args:
            model: who answers.
            template: that the rows were encoded with.
            rows: encoded.
            seeds: of sampling, one for each row.
        """
        found, asked = list(rows), dict[int, int]()
        engine = choose_engine(model, prepare_generation_config(model, template, self.config), self.slots)
        requests: list[Request] = []
        for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            question = question_of(place, row)
            if question is not None:
                requests.append(self._request(model, template, question.prompt_ids, seed))
                asked[id(requests[-1])] = place
        training = model.training
        model.eval()
        try:
            for generation in engine.run(iter(requests)):
                place = asked[id(generation.request)]
                found[place] = _with_reply(rows[place], generation.request.prompt_ids, generation.ids)
        finally:
            model.train(training)
        return found

    def _request(self, model: Any, template: Template, prompt_ids: list[int], seed: int) -> Request:
        config = prepare_generation_config(model, template, self.config, num_prompt_tokens=len(prompt_ids))
        limit = template.max_length
        room = config.max_new_tokens if limit is None else min(config.max_new_tokens, limit - len(prompt_ids))
        config.max_new_tokens = max(room, 1)
        return Request(prompt_ids, config, Reader(template, config.eos_token_id), seed)


def _with_reply(row: Row, prompt_ids: list[int], ids: list[int]) -> Row:
    kept = {name: value for name, value in row.items() if name == DATASET_NUMBER}
    return {**kept, "input_ids": [*prompt_ids, *ids], "labels": [*[IGNORED] * len(prompt_ids), *ids]}

"""What a demo model gets right: answers through swift's own inference, counted by skill."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from demo import counting, wording
from demo.facts import COUNTRIES
from demo.grammar import SKILLS, held_out
from demo.items import Item, Skill
from swift.inference.generate import Answer, generate_batch
from swift.models.load import get_model_tokenizer
from swift.templates.template import Template, get_template

LONGEST = 120
BATCH = 64
SCORED = tuple(skill for skill in SKILLS if skill.scored)


@dataclass(frozen=True)
class Score:
    """How many of some items were answered exactly, and how many answers ended by themselves."""

    skill: str
    new: str
    count: int
    exact: int
    stopped: int

    @property
    def row(self) -> str:
        """A line of the table."""
        return f"| {self.skill} | {self.new} | {self.count} | {percent(self.exact, self.count)} |"


def percent(part: int, whole: int) -> str:
    """A share, such as "97.5 %"."""
    return f"{100 * part / whole:.1f} %"


def load(model: str, template: str = "chatml") -> tuple[Any, Template]:
    """A model of the catalog or of a directory, in float32, and its template."""
    said: dict[str, Any] = {"model_id_or_path": model} if Path(model).is_dir() else {"model_type": model}
    loaded, tokenizer = get_model_tokenizer(torch_dtype=torch.float32, **said)
    return loaded, get_template(template, tokenizer)


def answers(model: Any, template: Template, rows: Iterable[dict[str, Any]], longest: int = LONGEST) -> list[Answer]:
    """What the model says, always taking the likeliest token."""
    config = GenerationConfig(max_new_tokens=longest, do_sample=False)
    return [answer for _, answer in generate_batch(model, template, rows, config, BATCH)]


def score_items(model: Any, template: Template, items: Sequence[Item]) -> tuple[int, int]:
    """How many of the last answers are exact, and how many ended by themselves."""
    said = answers(model, template, ({"messages": item.messages(answered=False)} for item in items))
    exact = sum(answer.text == item.answer for answer, item in zip(said, items, strict=True))
    return exact, sum(answer.finish_reason == "stop" for answer in said)


def score_skill(model: Any, template: Template, skill: Skill, count: int) -> list[Score]:
    """The scores of one skill on held-out items, `count` of each sort."""
    sorts: dict[str, list[Item]] = {}
    for label, item in held_out(skill, count):
        sorts.setdefault(label, []).append(item)
    return [Score(skill.name, new, len(items), *score_items(model, template, items)) for new, items in sorts.items()]


def score_equations(model: Any, template: Template, count: int) -> list[Score]:
    """How the base model ends held-out equations, and sentences about capitals."""
    rng = random.Random("equations")
    known = {
        "ending an addition": [counting.add(rng, True, False).answer for _ in range(count)],
        "ending a subtraction": [counting.subtract(rng, True, False).answer for _ in range(count)],
    }
    scores = []
    for name, lines in known.items():
        starts, ends = zip(*(line.split("= ") for line in lines), strict=True)
        said = answers(model, template, ({"query": f"{start}= "} for start in starts), 6)
        right = sum(answer.text.split("\n")[0] == end for answer, end in zip(said, ends, strict=True))
        scores.append(Score(name, "numbers", count, right, 0))
    sentences = [wording.capital_answer(row, chinese) for row in COUNTRIES for chinese in (False, True)]
    splits = [next(mark for mark in (" is ", "首都是") if mark in text) for text in sentences]
    heads = [text[: text.index(mark) + len(mark.rstrip())] for text, mark in zip(sentences, splits, strict=True)]
    said = answers(model, template, ({"query": head} for head in heads), 16)
    right = sum((h + a.text).startswith(text) for h, a, text in zip(heads, said, sentences, strict=True))
    return [*scores, Score("ending a sentence about a capital", "nothing", len(sentences), right, 0)]

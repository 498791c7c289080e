"""A trained reward model as a reward function: what `swift infer` says of a conversation with its answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from swift.arguments.infer import InferArguments
from swift.commands.gkd import digest_of
from swift.commands.prepare import find_decided, load_template
from swift.commands.score import head_of, load
from swift.errors import DataError
from swift.heads.answer import scores_of
from swift.heads.kinds import Kind
from swift.heads.rows import Text, encode_texts
from swift.preference.reference import Reference
from swift.templates.template import Template

ROWS = 16
"""Answers that are scored at once."""


class RewardModel:
    """Scores answers; the model is loaded when it is first needed.

    Args:
        said: a checkpoint of `swift rlhf --rlhf_type rm`, or a whole model of its kind.

    Raises:
        DataError: it is none.
    """

    def __init__(self, said: str) -> None:
        whole = not any(Path(said).expanduser().glob("**/adapter_config.json"))
        where: dict[str, Any] = {"model_id_or_path": said} if whole else {"ckpt_dir": said}
        self.args, self.source = find_decided(InferArguments(**where, max_length=-1))
        head = head_of(self.args, self.source)
        if head is None or head.task_type != "reward":
            what = f"--reward_model {said} " + ("writes text" if head is None else f"has a head for {head.task_type}")
            raise DataError("CKPT-02", what, fix="a checkpoint of swift rlhf --rlhf_type rm")
        self.head = head

    @cached_property
    def loaded(self) -> tuple[Any, Template, Kind]:
        """The model, what encodes its rows, and what reads its scores."""
        return load(self.args, self.source, self.head), load_template(self.args, self.source), self.head.kind()

    @property
    def digest(self) -> str:
        """What tells its weights from others."""
        adapters = digest_of(Path(self.args.ckpt_dir)) if self.args.ckpt_dir else ""
        return Reference(self.loaded[0]).told() + adapters

    def __call__(self, prompts: Sequence[list[dict[str, Any]]], completions: Sequence[str]) -> list[float]:
        """The score of each answer."""
        model, template, kind = self.loaded
        talks = [
            {"messages": [*asked, {"role": "assistant", "content": text}]}
            for asked, text in zip(prompts, completions, strict=True)
        ]
        encoded = encode_texts(talks, template)
        wrong = next((one for one in encoded if isinstance(one, DataError)), None)
        if wrong is not None:
            raise wrong
        ids = [one.ids for one in encoded if isinstance(one, Text)]
        pad_id = model.config.get_text_config().pad_token_id
        return [float(score) for score in scores_of(model, kind, ids, ROWS, pad_id).reshape(-1)]

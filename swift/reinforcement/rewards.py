"""What answers are worth: functions of a user's own file and those that are built in, called and checked.

Letters in names: A answers, F functions.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.datasets.prompts import Prompt, Prompts
from swift.errors import ConfigError, SwiftError, UsageError
from swift.log import get_logger
from swift.registry import unknown
from swift.reinforcement.built_in import BUILT_IN

logger = get_logger()
GIVEN = ("prompts", "completions", "completion_ids", "max_new_tokens")
"""What every function may ask for, besides the columns of the rows."""
FUNCTION = "def function(completions, **columns): return [1.0 if good(text) else 0.0 for text in completions]"


@dataclass(frozen=True)
class Answer:
    """What the model wrote to a prompt.

    Attributes:
        prompt: what it was asked.
        ids: the tokens, with the one that ends the answer.
        text: the same in words, without its end.
        truncated: whether it was cut off.
    """

    prompt: Prompt
    ids: list[int]
    text: str
    truncated: bool


@dataclass(frozen=True)
class Reward:
    """A function that says what answers are worth.

    Attributes:
        name: as logs call it.
        function: takes lists with an item for each answer, by name; gives a number for each, None where it does not
            apply.
        weight: what its numbers are multiplied by.
        longest: how many tokens an answer may have.
        digest: what tells it from others of its name; None of a built-in one.
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0
    longest: int = 512
    digest: str | None = None

    def told(self) -> list[Any]:
        """What a run that goes on must have the same of."""
        return [self.name, self.weight, *([] if self.digest is None else [self.digest])]

    @property
    def wanted(self) -> tuple[list[str], list[str], bool]:
        """The columns it must have, those it can do without, and whether it takes all."""
        parameters = inspect.signature(self.function).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in GIVEN]
        must = [p.name for p in named if p.default is p.empty]
        return (
            must,
            [p.name for p in named if p.default is not p.empty],
            any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def __call__(self, answers: Sequence[Answer], columns: Sequence[str]) -> list[float]:
        """What each answer is worth; NaN where the function does not apply.

        Args:
            answers: of any prompts.
            columns: names of all columns that some row of the data has.

        Raises:
            UsageError: the function raises, or gives something else than a number for each answer.
        """
        must, can, all_of_them = self.wanted
        names = list(columns) if all_of_them else [name for name in columns if name in (*must, *can)]
        said: dict[str, Any] = {
            **{name: [answer.prompt.columns.get(name) for answer in answers] for name in names},
            "prompts": [answer.prompt.messages for answer in answers],
            "completions": [answer.text for answer in answers],
            "completion_ids": [answer.ids for answer in answers],
            "max_new_tokens": self.longest,
        }
        parameters = inspect.signature(self.function).parameters
        said = {name: value for name, value in said.items() if all_of_them or name in parameters}
        try:
            found = self.function(**said)
        except SwiftError:
            raise
        except (Exception, SystemExit) as error:  # of the user's own code: it may raise anything
            line = _line_of(error, self.function)
            what = f"reward function {self.name}{line}: {type(error).__name__}: {error}"
            why = f"the answers are to {_rows_of(answers)}"
            raise UsageError("USAGE-02", what, why=why, fix="mend the function, or run with --debug") from error
        return self._checked(found, answers)

    def _checked(self, found: Any, answers: Sequence[Answer]) -> list[float]:
        if isinstance(found, np.ndarray | Tensor):
            found = found.tolist()
        if not isinstance(found, list | tuple) or len(found) != len(answers):
            count = f"{len(found)} numbers" if isinstance(found, list | tuple) else type(found).__name__
            what = f"reward function {self.name} gave {count} for {len(answers)} answers"
            raise UsageError("USAGE-02", what, fix=f"a list with one number for each, as {FUNCTION}")
        return [self._number(value, answer) for value, answer in zip(found, answers, strict=True)]

    def _number(self, value: Any, answer: Answer) -> float:
        if value is None:
            return math.nan
        if isinstance(value, np.generic | Tensor):
            value = value.item()
        number = _float_of(value) if isinstance(value, numbers.Real) else math.nan
        if not math.isfinite(number):
            value = number if isinstance(value, numbers.Real) else value
            what = f"reward function {self.name} gave {str(value)[:40]!r} for an answer to {answer.prompt.where}"
            fix = "a finite number, or None where the function does not apply to the row"
            raise UsageError("USAGE-02", what, why=f"the answer is {answer.text[:60]!r}", fix=fix)
        return number


def _float_of(value: Any) -> float:
    """A number; infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _rows_of(answers: Sequence[Answer], most: int = 3) -> str:
    """Which rows answers are to: the first few, and how many more there are."""
    wheres = list(dict.fromkeys(answer.prompt.where for answer in answers))
    more = f" and {len(wheres) - most} more" if len(wheres) > most else ""
    return ", ".join(wheres[:most]) + more


def _line_of(error: BaseException, function: Callable[..., Any]) -> str:
    """Where in the file of a function it went wrong."""
    file = inspect.unwrap(function).__code__.co_filename if inspect.isfunction(inspect.unwrap(function)) else None
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", {file}:{line}" if line is not None else ""


def find_rewards(
    names: Sequence[str], weights: Sequence[float], longest: int, load: Callable[[str], Any]
) -> list[Reward]:
    """The functions of `--reward_funcs`.

    Args:
        names: built-in ones, and `file.py:function`.
        weights: of each, and of what is none of them; 1 for all where there are none.
        longest: how many tokens an answer may have.
        load: makes a module of a Python file, which is run.

    Raises:
        UsageError: a name is not known, or a file has no such function.
    """
    found = [_find(name, load) for name in names]
    short = [name.rpartition(":")[2] for name in names]
    told = [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]
    every = weights or [1.0] * len(names)
    return [
        Reward(one, function, weight, longest, digest)
        for one, (function, digest), weight in zip(told, found, every, strict=False)
    ]


def _find(name: str, load: Callable[[str], Any]) -> tuple[Callable[..., Any], str | None]:
    """A function, and the SHA-256 of the file that it is written in; None of a built-in one."""
    path, colon, wanted = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        if name.endswith(".py"):
            fix = f"--reward_funcs {name}:function"
            raise UsageError("USAGE-02", f"--reward_funcs {name} does not say which function of the file", fix=fix)
        if name not in BUILT_IN:
            raise unknown("reward function", name, BUILT_IN)
        return BUILT_IN[name], None
    there = vars(load(path))
    function = there.get(wanted)
    if not callable(function) or inspect.isclass(function):
        own = [key for key, value in there.items() if inspect.isfunction(value) and not key.startswith("_")]
        fix = f"one of: {', '.join(own)}" if own else FUNCTION
        raise UsageError("USAGE-02", f"--reward_funcs {name}: {path} has no function {wanted}", fix=fix)
    if inspect.iscoroutinefunction(function):
        raise UsageError("USAGE-02", f"--reward_funcs {name}: it is an async function", fix=FUNCTION)
    inner = inspect.unwrap(function)
    file = Path(inner.__code__.co_filename if inspect.isfunction(inner) else path)
    if not file.is_file():
        file = Path(path).expanduser()
    return function, hashlib.sha256(file.read_bytes()).hexdigest()


def check_columns(rewards: Sequence[Reward], prompts: Prompts) -> None:
    """Make sure that the rows have what the functions look at.

    Raises:
        ConfigError: a column is missing.
    """
    names = prompts.names
    for reward in rewards:
        missing = [name for name in reward.wanted[0] if name not in names]
        if missing:
            what = f'reward function {reward.name} looks at the column "{missing[0]}", and no row has it'
            fix = f"--columns theirs={missing[0]}, or another function"
            raise ConfigError("CONFIG-02", what, why=f"the columns are {', '.join(names)}", fix=fix)


def scores(rewards: Sequence[Reward], answers: Sequence[Answer], columns: Sequence[str]) -> Tensor:
    """What every function says of every answer, in float64; NaN where it does not apply; shape A, F."""
    return torch.tensor([reward(answers, columns) for reward in rewards], dtype=torch.float64).T.contiguous()


def totals(scores_AF: Tensor, weights_F: Tensor) -> Tensor:
    """The weighted sum of what applies; NaN where nothing does."""
    none_A = scores_AF.isnan().all(1)
    return (scores_AF * weights_F).nansum(1).masked_fill(none_A, math.nan)


def warn_of_none(scores_AF: Tensor, answers: Sequence[Answer]) -> None:
    """Say so where no function applies to any answer: nothing is learnt of them."""
    if answers and scores_AF.isnan().all():
        logger.warning(f"no reward function applies to any answer to {_rows_of(answers)}: nothing is learnt of them")

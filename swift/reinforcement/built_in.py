"""Rewards that need no file: whether an answer is right, has the form that was asked for, and is not too long."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+(?![\d.]))?(?:\s*%)?")
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
THOUGHT = re.compile(r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
FRACTION = re.compile(r"(\d?)\\[dt]?frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))")
COMPUTED = re.compile(r"\\(?:sqrt|pi|cdot|times|div|pm|infty|[dt]?frac|log|ln)(?![A-Za-z])|[\^√π×·∞]")
"""What makes more of a number than it is."""
BEFORE = re.compile(r"[A-Za-z]_?$|[\w)}\]]\s*[-+*/]\s*$")
AFTER = re.compile(r"[A-Za-z]|\s*[-+*/]\s*[A-Za-z({\\]")
LONGEST = 1000
"""Digits of a number."""
CLOSE = Fraction(1, 1_000_000)


def exact_match(completions: Sequence[str], solution: Sequence[Any]) -> list[float | None]:
    """1 where an answer is the solution, blanks around them aside, else 0."""
    return [
        None if right is None else float(text.strip() == str(right).strip())
        for text, right in zip(completions, solution, strict=True)
    ]


def math(completions: Sequence[str], solution: Sequence[Any]) -> list[float | None]:
    r"""1 where the result of an answer is that of the solution, else 0.

    The result is what stands in the last \boxed{...}, in <answer>...</answer>, or after ####, or else the last number.
    Numbers are compared as numbers: 1,000 is 1000.0, and 1/2 is 50%.
    """
    return [
        None if right is None else float(same_result(text, str(right)))
        for text, right in zip(completions, solution, strict=True)
    ]


def well_formed(completions: Sequence[str]) -> list[float]:
    """1 where an answer is <think>...</think> and <answer>...</answer> and nothing else, else 0."""
    return [float(THOUGHT.fullmatch(text) is not None and text.count("<answer>") == 1) for text in completions]


def not_too_long(completion_ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[float]:
    """0 up to half of the longest length, from there down to -1 at the longest.

    Paper: DAPO, https://arxiv.org/abs/2503.14476, section 3.4.
    """
    half = max_new_tokens / 2
    return [-max(0.0, (len(ids) - half) / half) for ids in completion_ids]


BUILT_IN: dict[str, Callable[..., Any]] = {
    "exact_match": exact_match,
    "math": math,
    "format": well_formed,
    "length": not_too_long,
}
"""By the names that `--reward_funcs` takes."""


def same_result(text: str, solution: str) -> bool:
    """Whether two texts come to the same."""
    said, right = result_of(text), result_of(solution)
    if said is None or right is None:
        return False
    one, other = number_of(said), number_of(right)
    if one is None or other is None:
        return "".join(said.split()) == "".join(right.split())
    return abs(one - other) <= CLOSE * max(1, abs(other))


def result_of(text: str) -> str | None:
    """What a text comes to: its marked result, or its last number; None where it has neither."""
    boxed, tagged = _boxed(text), TAGGED.findall(text)
    marked = boxed if boxed is not None else (tagged[-1] if tagged else None)
    if marked is None and "####" in text:
        marked = text.rpartition("####")[2]
    if marked is not None:
        return _boxed(marked) or marked.strip().strip("$").strip()
    text = re.sub(r"(?<=[\d})])\s+(?=\\(?:sqrt|pi|cdot|times)(?![A-Za-z]))", "", text)
    text = re.sub(r"(\\(?:sqrt|pi|cdot|times))\s+(?=[\d{(\\])", r"\1", text)
    numbers = list(NUMBER.finditer(text))
    if not numbers:
        return text.strip() or None
    last = numbers[-1]
    return re.split(r"[\s=]", text[: last.start()])[-1] + last[0] + re.split(r"[\s=]", text[last.end() :])[0]


def number_of(text: str) -> Fraction | None:
    r"""A text as a number, whatever unit or sign of money is beside it; None where it is none, several or a formula."""
    if sum(letter.isdigit() for letter in text) > LONGEST:
        return None
    text = FRACTION.sub(lambda m: f"{m[1] and m[1] + ' '}{m[2] or m[3]}/{m[4] or m[5]}", text)
    text = re.sub(r"\^\{?\\circ\}?|\\[,!;]", "", text.replace("{,}", ","))
    text = re.sub(r"([-+])\s*\\?\$\s*", r"\1", text)
    found = list(NUMBER.finditer(text))
    if len(found) != 1 or COMPUTED.search(text):
        return None
    if BEFORE.search(text[: found[0].start()]) or AFTER.match(text, found[0].end()):
        return None
    plain = found[0][0].replace(",", "").replace(" ", "")
    share = plain.endswith("%")
    above, _, below = plain.rstrip("%").partition("/")
    if below and not int(below):
        return None
    value = Fraction(above) / Fraction(below or 1)
    return value / 100 if share else value


def _boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}, braces in it counted."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for k in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[k], 0)
        if not depth:
            return text[begin:k].strip()
    return None

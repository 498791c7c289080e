"""What answers are worth, and what is said of functions that do not tell."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swift.arguments.engines import cuts_weights
from swift.commands.chosen import load_plugin
from swift.datasets.prompts import Prompt, Prompts
from swift.errors import ConfigError, NotFoundError, SwiftError, UnknownNameError, UsageError
from swift.reinforcement.advantages import leave_one_out, relative_to_group, spread
from swift.reinforcement.built_in import BUILT_IN, same_result
from swift.reinforcement.rewards import Answer, Reward, check_columns, find_rewards, scores, totals


def answer(text: str, tokens: int = 3, **columns: Any) -> Answer:
    prompt = Prompt(np.arange(4, dtype=np.int32), [{"role": "user", "content": "?"}], columns, "rows.jsonl:7")
    return Answer(prompt, list(range(tokens)), text, False)


@pytest.mark.parametrize(
    ("text", "solution", "same"),
    [
        ("47 + 38 = 85", "85", True),
        ("so it is 1,000.0 in all", "1000", True),
        ("that makes \\boxed{\\frac{1}{2}}, not 7", "50%", True),
        ("it is \\boxed{12", "12", True),
        ("<think>3</think><answer> 4 </answer> or 5", "4", True),
        ("2 and 3\n#### 7", "#### 7", True),
        ("$1.50", "3/2", True),
        ("-3", "3", False),
        ("5 apples and 3 pears", "5", False),
        ("\\boxed{x + 1}", "\\boxed{x+1}", True),
        ("\\boxed{x}", "\\boxed{y}", False),
        ("1/0", "0", False),
        ("", "0", False),
        ("Paris", "Paris", True),
        ("I do not know", "4", False),
        ("\\boxed{2}", "\\boxed{\\sqrt{2}}", False),
        ("#### 2", "2\\pi", False),
        ("2 \\pi", "2", False),
        ("x^2", "2", False),
        ("\\boxed{3}", "3x", False),
        ("12", "\\frac12", False),
        ("0.5", "\\frac12", True),
        ("\\boxed{-\\frac{1}{2}}", "-0.5", True),
        ("12", "(1,2)", False),
        ("(1, 2)", "\\boxed{(1,2)}", False),
        ("5", "-$5", False),
        ("-5", "-$5", True),
        ("90", "90^\\circ", True),
        ("3 \\times 4", "4", False),
        ("\\boxed{x + 2}", "2", False),
        ("12,345 km", "12345", True),
        ("1,23", "123", False),
        ("47+38=85.", "85", True),
        ("7" * 5000, "7", False),
        ("7" * 5000, "7" * 5000, True),
    ],
)
def test_results_are_compared_as_what_they_are(text: str, solution: str, same: bool) -> None:
    assert same_result(text, solution) is same


def test_built_in_functions() -> None:
    assert BUILT_IN["exact_match"]([" 4\n", "5", "x"], [4, "4", None]) == [1.0, 0.0, None]
    assert BUILT_IN["math"](["= 4", "5", "x"], ["4", 4, None]) == [1.0, 0.0, None]
    good, bad = "<think>a\nb</think>\n<answer>c</answer>", "<answer>c</answer>"
    assert BUILT_IN["format"]([good, bad, good + bad, good + "!"]) == [1.0, 0.0, 0.0, 0.0]
    lengths = [[0] * 5, [0] * 10, [0] * 15, [0] * 20]
    assert BUILT_IN["length"](lengths, 20) == [0.0, 0.0, -0.5, -1.0]


def test_a_function_gets_what_it_names() -> None:
    seen: list[dict[str, Any]] = []

    def some(completions: list[str], level: list[int], mood: list[str] | None = None) -> list[float]:
        seen.append({"completions": completions, "level": level, "mood": mood})
        return [1, True]  # type: ignore[list-item]

    def every(**said: Any) -> Any:
        seen.append(said)
        return torch.tensor([0.5, 0.25])

    answers = [answer("a", level=1, other="x"), answer("b", 5, level=2)]
    rewards = [Reward("some", some, 2.0), Reward("every", every, -1.0, longest=9)]
    found = scores(rewards, answers, ["level", "other"])
    assert found.tolist() == [[1.0, 0.5], [1.0, 0.25]]
    assert seen[0] == {"completions": ["a", "b"], "level": [1, 2], "mood": None}
    assert seen[1]["other"] == ["x", None]
    assert seen[1]["completion_ids"] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert seen[1]["prompts"][0] == [{"role": "user", "content": "?"}]
    assert seen[1]["max_new_tokens"] == 9
    assert totals(found, torch.tensor([2.0, -1.0]).double()).tolist() == [1.5, 1.75]


def test_none_is_left_out() -> None:
    found = scores([Reward("a", lambda completions: [None, 1.0, None]), Reward("b", lambda completions: [2, 3, None])],
                   [answer("x")] * 3, [])  # fmt: skip
    total = totals(found, torch.tensor([1.0, 10.0]).double()).tolist()
    assert total[:2] == [20.0, 31.0]
    assert math.isnan(total[2])


def raising(completions: list[str]) -> list[float]:
    return [1 / 0 for _ in completions]


def odd_error(completions: list[str]) -> list[float]:
    raise Exception("of its own")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raising, r"reward function f, .*test_rewards.py:\d+: ZeroDivisionError: division by zero"),
        (lambda completions: [1.0], "gave 1 numbers for 2 answers"),
        (lambda completions: 1.0, "gave float for 2 answers"),
        (lambda completions: [1.0, math.nan], "gave 'nan' for an answer to rows.jsonl:7"),
        (lambda completions: [1.0, "good"], "gave 'good' for an answer to rows.jsonl:7"),
        (lambda completions: np.array([1.0, np.inf]), "gave 'inf'"),
        (lambda completions: [1.0, 10**5000], "gave 'inf'"),
        (lambda completions: sys.exit(3), "SystemExit: 3"),
        (odd_error, "(?s)Exception: of its own.*rows.jsonl:7"),
    ],
)
def test_what_is_no_reward_is_refused(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Reward("f", function)([answer("x"), answer("y")], [])


def test_functions_are_found_by_name_and_in_files(tmp_path: Path) -> None:
    path = tmp_path / "my_rewards.py"
    path.write_text(
        "def short(completions): return [-len(t) for t in completions]\nasync def later(completions): ...\n"
    )

    def find(*names: str, weights: tuple[float, ...] = ()) -> list[Reward]:
        return find_rewards(names, weights, 64, lambda said: load_plugin(said, "reward_funcs"))

    found = find("math", f"{path}:short", weights=(1.0, 0.5))
    assert [(reward.name, reward.weight, reward.longest) for reward in found] == [("math", 1.0, 64), ("short", 0.5, 64)]
    assert found[1]([answer("four")], []) == [-4.0]
    before = found[1].told()
    path.write_text(path.read_text() + "# other\n")
    assert find("math", str(path) + ":short", weights=(1.0, 0.5))[1].told() != before
    assert found[0].told() == ["math", 1.0]
    wrong: dict[str, tuple[type[SwiftError], str]] = {
        "mathe": (UnknownNameError, "math"),
        str(path): (UsageError, "does not say which function"),
        f"{path}:long": (UsageError, "has no function long"),
        f"{path}:later": (UsageError, "async"),
        f"{tmp_path}/none.py:short": (NotFoundError, "not a Python file"),
    }
    for name, (kind, words) in wrong.items():
        with pytest.raises(kind, match=words):
            find(name)


def test_missing_columns_are_named() -> None:
    prompts = Prompts([answer("x", query="q", result=3).prompt], [0])
    with pytest.raises(ConfigError, match='math looks at the column "solution", and no row has it') as caught:
        check_columns([Reward("math", BUILT_IN["math"])], prompts)
    assert "query, result" in str(caught.value)
    assert "--columns theirs=solution" in str(caught.value)


def test_where_nothing_applies_nothing_is_learnt() -> None:
    rewards_PG = torch.full((2, 3), math.nan).double()
    assert not relative_to_group(rewards_PG, "group").any()
    assert not relative_to_group(rewards_PG, "batch", spread(rewards_PG)).any()
    assert not leave_one_out(rewards_PG).any()


def test_zero_3_is_known_however_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text('{"zero_optimization": {"stage": 3}}')
    assert all(cuts_weights(said) for said in ("default-zero3", "zero3-offload", str(path), path.read_text()))
    assert not any(cuts_weights(said) for said in (None, "zero2", '{"zero_optimization": {"stage": 2}}', "none.json"))

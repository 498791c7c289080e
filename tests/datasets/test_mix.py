from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.datasets.load import load_datasets
from swift.datasets.mix import ALL, FIRST, Mix, choose_mix, mix_rows
from swift.datasets.spec import DatasetSpec
from swift.errors import ConfigError, UsageError


def specs(*shares: float | None) -> list[DatasetSpec]:
    return [DatasetSpec(f"set{i}", share=share) for i, share in enumerate(shares)]


@pytest.mark.parametrize(
    ("said", "how", "shares"),
    [
        ((None, None), {}, None),
        ((None,), {"interleave": True}, None),
        ((None, None), {"interleave": True}, (0.5, 0.5)),
        ((None, 0.25), {}, (0.75, 0.25)),
        ((None, None, 0.5), {}, (0.25, 0.25, 0.5)),
        ((1.0, 3.0), {}, (0.25, 0.75)),
        ((None, None), {"shares": [2, 6]}, (0.25, 0.75)),
    ],
)
def test_shares(said: Any, how: Any, shares: Any) -> None:
    assert choose_mix(specs(*said), **how).shares == shares


@pytest.mark.parametrize(
    ("said", "how", "kind", "says"),
    [
        ((None, 1.0), {}, ConfigError, "leave nothing for set0"),
        ((None, 0.5), {"shares": [1, 1]}, ConfigError, "by --interleave_prob and by @"),
        ((None, None), {"shares": [1]}, UsageError, "1 shares for 2 data sets"),
        ((None, None), {"shares": [1, 0]}, UsageError, "would leave a data set out"),
    ],
)
def test_shares_that_cannot_be(said: Any, how: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind, match=says):
        choose_mix(specs(*said), **how)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4), weights=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    until=st.sampled_from([FIRST, ALL]),
)  # fmt: skip
def test_a_mix_keeps_its_shares(sizes: list[int], weights: list[int], until: str) -> None:
    sets = [[(i, k) for k in range(size)] for i, size in enumerate(sizes)]
    shares = tuple(weight / sum(weights[: len(sets)]) for weight in weights[: len(sets)])
    mixed = mix_rows(sets, Mix(shares, until))
    for length in range(1, len(mixed) + 1):
        for i, share in enumerate(shares):
            assert abs(sum(row[0] == i for row in mixed[:length]) - share * length) < len(sets)
    if until == FIRST:
        assert len(set(mixed)) == len(mixed)
        assert any({row for row in mixed if row[0] == i} == set(rows) for i, rows in enumerate(sets))
    else:
        assert set(mixed) == {row for rows in sets for row in rows}


def test_turns_of_equal_sets_are_those_of_interleave_datasets() -> None:
    assert mix_rows(["abc", "x", "pq"], Mix((1 / 3,) * 3)) == ["a", "x", "p", "b"]
    assert mix_rows([[], "ab"], Mix((0.5, 0.5))) == []
    assert mix_rows(["ab", "c"], Mix()) == ["a", "b", "c"]


def write(path: Path, name: str, count: int) -> str:
    rows = [{"query": "q", "response": f"{name}{i}"} for i in range(count)]
    (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path / f"{name}.jsonl")


def test_load_mixes_what_trains_and_accounts_for_the_rest(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a", 100), write(tmp_path, "b", 30)
    loaded = load_datasets([f"{a}#50", f"{b}@0.25"], test_ratio=0.1)
    first = [row["messages"][1]["content"][0] for row in loaded.train]
    assert (first.count("a"), first.count("b"), len(loaded.val or [])) == (45, 15, 5 + 3)
    assert first[:8] == ["a", "a", "b", "a"] * 2
    assert loaded.ledger.balanced
    assert {reason: len(rows) for reason, rows in loaded.ledger.dropped.items()} == {
        "not sampled": 50,
        "left out of the mix": 12,
    }
    again = load_datasets([f"{a}#50", f"{b}@0.25"], test_ratio=0.1)
    assert again.train == loaded.train
    over = load_datasets([a, b], test_ratio=0, interleave=True, stopping_strategy=ALL)
    shares = {one.dataset: one.train for one in over.ledger.accounts.values()}
    assert (shares[a].rows, shares[a].examples, shares[b].rows, shares[b].examples) == (100, 100, 30, 100)

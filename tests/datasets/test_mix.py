from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.arguments.sft import SftArguments
from swift.commands.streams import open_stream
from swift.datasets.load import load_datasets
from swift.datasets.mix import ALL, FIRST, Mix, choose_mix, mix_rows
from swift.datasets.spec import DatasetSpec
from swift.errors import ConfigError, UsageError
from swift.templates.template import get_template


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


@pytest.mark.parametrize(("text", "rows"), [("@0.3", 30), ("@1", 100), ("@2", 200), ("#50@0.1", 5), ("@0.001", 1)])
def test_a_share_of_a_set_that_is_alone_is_one_of_its_rows(tmp_path: Path, text: str, rows: int) -> None:
    alone, other = write(tmp_path, "a", 100), write(tmp_path, "b", 40)

    def places(found: Sequence[Any] | None) -> list[str]:
        return [row["where"] for row in found or []]

    loaded = load_datasets([f"{alone}{text}"], test_ratio=0)
    assert places(loaded.train) == places(load_datasets([f"{alone}#{rows}"], test_ratio=0).train)
    assert len(loaded.train) == rows
    assert loaded.ledger.balanced
    assert len(places(load_datasets([other], val_specs=[f"{alone}{text}"]).val)) == rows
    more = load_datasets([other], mix_specs=[f"{alone}#20@0.1"], mix_ratio=0.5, test_ratio=0)
    assert len({place for place in places(more.train) if "a.jsonl" in place}) == 2


def test_a_stream_alone_has_no_share_of_rows_that_nobody_counted(tmp_path: Path, tokenizer: Any) -> None:
    alone, template = write(tmp_path, "a", 100), get_template("chatml", tokenizer)
    args = SftArguments(dataset=[f"{alone}@0.5"], streaming=True, max_steps=1)
    with pytest.raises(UsageError, match="how many rows a stream has is not known"):
        open_stream(args, template, None)
    counted = open_stream(replace(args, dataset=[f"{alone}#40@0.5"]), template, None)[0]
    assert [source.spec.sample for source in counted.sources] == [20]
    assert counted.mix.shares is None

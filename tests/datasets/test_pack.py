from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.datasets.encode import encode
from swift.datasets.pack import PackedDataset, best_fit, first_row, join, members
from swift.errors import ConfigError
from tests.datasets.fake import END, FakeTemplate
from tests.datasets.test_encode import opened, talk

LENGTHS = st.lists(st.integers(1, 30), max_size=60)


def by_hand(lengths: list[int], size: int) -> list[list[int]]:
    """Best-fit decreasing as it is told: look at every pack for every row."""
    packs: list[list[int]] = []
    for k in sorted(range(len(lengths)), key=lambda k: -lengths[k]):
        rooms = [(size - sum(lengths[i] for i in pack), pack) for pack in packs]
        fitting = [room for room, _ in rooms if room >= lengths[k]]
        if fitting:
            next(pack for room, pack in rooms if room == min(fitting)).append(k)
        else:
            packs.append([k])
    return packs


@given(LENGTHS)
def test_each_row_is_in_one_pack_and_none_is_too_full(lengths: list[int]) -> None:
    packs = members(best_fit(lengths, 30))
    assert sorted(k for pack in packs for k in pack.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[k] for k in pack.tolist()) <= 30 for pack in packs)
    assert [pack[0] for pack in packs] == sorted(pack[0] for pack in packs)


@given(LENGTHS)
def test_it_is_best_fit_decreasing(lengths: list[int]) -> None:
    fills = sorted(sum(lengths[k] for k in pack.tolist()) for pack in members(best_fit(lengths, 30)))
    assert fills == sorted(sum(lengths[k] for k in pack) for pack in by_hand(lengths, 30))
    smallest = math.ceil(sum(lengths) / 30)
    assert len(fills) <= 11 / 9 * smallest + 4  # what is proven of it, above a bound from below of the best


def test_chats_fill_packs_to_99_percent() -> None:
    dice = random.Random(1)
    lengths = [min(1500, max(16, int(dice.lognormvariate(math.log(110), 0.8)))) for _ in range(5000)]
    for size in (1536, 2048, 4096):
        packs = len(members(best_fit(lengths, size)))
        assert sum(lengths) / (packs * size) >= 0.99


def test_the_same_lengths_make_the_same_packs() -> None:
    lengths = [3, 9, 4, 4, 7, 3, 9]
    assert best_fit(lengths, 12).tolist() == best_fit(np.array(lengths), 12).tolist() == [0, 1, 2, 3, 2, 1, 0]


def test_a_row_that_is_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(ConfigError, match="13 tokens does not fit a pack of 12"):
        best_fit([4, 13], 12)


def test_no_rows_make_no_packs() -> None:
    assert members(best_fit([], 12)) == []


def test_positions_begin_again_and_first_labels_are_masked() -> None:
    packed = join([{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7, 8, 9], "labels": [7, -100, 9]}])
    assert {name: values.tolist() for name, values in packed.items()} == {
        "input_ids": [5, 6, 7, 8, 9],
        "labels": [-100, 6, -100, -100, 9],
        "position_ids": [0, 1, 0, 1, 2],
    }


def test_weights_go_with_their_tokens() -> None:
    rows: list[dict[str, Any]] = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "loss_scale": [1.0, 0.5, 2.0]},
        {"input_ids": [8, 9, 9], "labels": [-100, 9, -100]},
    ]
    assert join(rows)["loss_scale"].tolist() == [1.0, 0.5, 2.0, 0.0, 1.0, 0.0]
    assert "loss_scale" not in join(rows[1:])


def test_packs_hold_the_rows_as_they_are() -> None:
    rows = [talk(k, "q" * (k % 7), "a" * (k % 5 + 1)) for k in range(1, 30)]
    encoded = encode(rows, FakeTemplate(max_length=20), opened(rows))
    packed = PackedDataset(encoded, 20)
    found = []
    for k in range(len(packed)):
        pack = packed[k]
        assert len(pack["input_ids"]) == packed.lengths[k] <= 20
        starts = np.flatnonzero(pack["position_ids"] == 0)
        found += [part.tolist() for part in np.split(pack["input_ids"], starts[1:])]
    assert sorted(found) == sorted(encoded[k]["input_ids"] for k in range(len(encoded)))
    assert packed.num_supervised == encoded.num_supervised
    assert packed.describe().startswith("29 rows in ")
    assert packed.fill == sum(encoded.lengths) / (20 * len(packed))
    assert END in found[0]


def test_a_pack_is_shown_by_its_first_row() -> None:
    one, two = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4, 5], "labels": [-100, 5]}
    assert first_row(join([one, two])) == one
    assert first_row(join([two])) == two
    assert first_row(one) == one

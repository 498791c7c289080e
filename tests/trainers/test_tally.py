"""What is counted beside the loss: tokens, and the padding of each data set."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from swift.trainers.loss import Sums
from swift.trainers.padding import Padding
from swift.trainers.tally import Tally

ALONE = SimpleNamespace(num_processes=1)
NOTHING = Sums(*[torch.zeros(())] * 6)
MASK_BT = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
BATCH = {"input_ids": MASK_BT, "attention_mask": MASK_BT}


def test_padding_is_that_of_the_rows_of_each_data_set() -> None:
    tally = Tally(torch.device("cpu"), 3)
    tally.add(NOTHING, BATCH, torch.tensor([0, 2, 0]))
    tally.add(NOTHING, BATCH, torch.tensor([1, 0, 0]))
    totals = tally.reduced(ALONE)  # type: ignore[arg-type]
    assert (totals["inputs"], totals["padding"], totals["paddings"]) == (14, 10, [7, 0, 3])


def test_all_padding_is_that_of_the_only_data_set() -> None:
    tally = Tally(torch.device("cpu"), 1)
    tally.add(NOTHING, BATCH)
    assert tally.reduced(ALONE)["paddings"] == [5]  # type: ignore[arg-type]


def test_padding_goes_on_from_a_checkpoint() -> None:
    rows = SimpleNamespace(dataset_names=["a", "b"])
    padding = Padding(rows)
    padding.count({"padding": 3.0, "paddings": [1.0, 2.0]})
    padding.keep()
    padding.count({"padding": 4.0, "paddings": [4.0, 0.0]})
    assert (padding.tokens, padding.of_datasets) == (7, {"a": 5, "b": 2})
    again = Padding(rows)
    again.from_state(padding.to_state())
    again.count({"padding": 1.0, "paddings": [0.0, 1.0]})
    assert (again.tokens, again.of_datasets) == (8, {"a": 5, "b": 3})
    assert Padding([]).of_datasets == {}

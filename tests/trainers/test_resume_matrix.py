"""Going on from a checkpoint within an epoch, at its edge and after it is never having stopped, in every combination."""

from __future__ import annotations

import pytest

from scripts.prove.resume import CELLS, OF_TWO, Cell, equal

QUICK = [
    Cell("lora", 1, 0, 97, "padded", "mid"),
    Cell("full", 3, 0, 96, "grouped", "edge"),
    Cell("lora", 3, 2, 97, "packed", "after"),
    Cell("full", 1, 0, 97, "packed", "mid"),
]


def name(cell: Cell) -> str:
    return "-".join(str(value) for value in vars(cell).values())


@pytest.mark.parametrize("cell", QUICK, ids=name)
def test_a_cell(cell: Cell) -> None:
    assert equal("swift", cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [cell for cell in [*CELLS, *OF_TWO] if cell not in QUICK], ids=name)
def test_every_other_cell(cell: Cell) -> None:
    assert equal("swift", cell)

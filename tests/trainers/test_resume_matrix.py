"""Going on from a checkpoint within an epoch, at its edge and after it is never having stopped, in every combination."""

from __future__ import annotations

import pytest

from scripts.prove.resume import CELLS, Cell, equal

QUICK = [CELLS[k] for k in (0, 23, 46, 69, 94)]


def name(cell: Cell) -> str:
    return "-".join(str(value) for value in vars(cell).values())


@pytest.mark.parametrize("cell", QUICK, ids=name)
def test_a_cell(cell: Cell) -> None:
    assert equal("swift", cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in QUICK], ids=name)
def test_every_other_cell(cell: Cell) -> None:
    assert equal("swift", cell)

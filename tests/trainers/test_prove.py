"""What docs/exactness.md counts, in small: damage, foreign adapters, kills, signals, one loss; its page is fresh."""

from __future__ import annotations

import json
import shutil

import pytest

from scripts.prove import __main__ as prove
from scripts.prove import adapters, damage, kills, loss, order, signals


@pytest.mark.parametrize("case", adapters.CASES)
def test_a_foreign_adapter_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "CASES", {case: adapters.CASES[case]})
    assert adapters.refused("swift") == (1, 1)


def test_damage_is_noticed() -> None:
    good, total = damage.detected("swift")
    assert good == total >= 54


def test_a_killed_run_goes_on() -> None:
    assert kills.kills("swift", 2, seed=3) == (2, 2)


@pytest.mark.slow
def test_a_signal_saves() -> None:
    assert signals.stops(3) == (3, 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_files_come_before_their_names() -> None:
    found = order.written_first("swift")
    assert found is not None
    assert found[0] == found[1] > 0


@pytest.mark.slow
def test_one_loss() -> None:
    good, total = loss.cuts("swift")
    assert good == total == 30


def test_the_page_says_what_was_found() -> None:
    found = json.loads(prove.FOUND.read_text())
    assert set(found) == set(prove.CLAIMS)
    assert all(row["ours"][0] == row["ours"][1] for row in found.values())
    rows = prove.page(found).splitlines()
    table = [line for line in rows if line.startswith("| ")]
    assert [line for line in prove.PAGE.read_text().splitlines() if line.startswith("| ")] == table

"""What docs/exactness.md counts, in small: damage, foreign adapters, kills, signals, one loss; its page is fresh."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from scripts.prove import __main__ as prove
from scripts.prove import adapters, calls, damage, differences, kills, loss, mutants, order, runs, signals
from swift import checkpoint
from tests.trainers import signalled


@pytest.mark.parametrize("case", adapters.CASES)
def test_a_foreign_adapter_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "CASES", {case: adapters.CASES[case]})
    assert adapters.refused("swift") == (1, 1)


def test_damage_is_noticed() -> None:
    good, total = damage.detected("swift")
    assert good == total >= 54


def test_a_killed_run_goes_on() -> None:
    assert kills.kills("swift", 2, seed=3) == (2, 2)


def test_all_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    def work() -> None:
        signalled.main(str(tmp_path), str(int(signal.SIGTERM)), "1", "2")  # rank 1 gets it, in step 2

    assert [runs.ended(child) for child in runs.group(2, work)] == [143, 143]
    assert checkpoint.latest(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_at_any_call_that_saves(few: bool) -> None:
    good, total = calls.killed(few) or (0, 0)
    assert good == total > (10 if few else 50)


@needs_strace
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_disk_that_fails_at_any_call_that_saves(few: bool) -> None:
    good, total = calls.refused(few) or (0, 0)
    assert good == total > (10 if few else 60)


@pytest.mark.parametrize("broken", mutants.MUTANTS)
def test_what_is_taken_out_stands_there_once(broken: str) -> None:
    mutant = mutants.MUTANTS[broken]
    assert (mutants.REPO / "swift" / mutant.file).read_text().count(mutant.guard) == 1
    assert (mutants.REPO / mutant.test.partition("::")[0]).is_file()


@pytest.mark.slow
def test_a_group_of_which_one_was_killed_goes_on() -> None:
    assert kills.kills("swift", 3, seed=1, world=2) == (3, 3)


@pytest.mark.slow
def test_what_is_another_run_does_not_go_on() -> None:
    good, total = differences.refused("swift")
    assert good == total >= 8


@pytest.mark.slow
def test_a_guard_that_is_gone_is_noticed() -> None:
    good, total = mutants.noticed()
    assert good == total >= 8


@pytest.mark.slow
def test_a_signal_saves() -> None:
    assert signals.stops(3) == (3, 3)


@pytest.mark.slow
@needs_strace
def test_files_come_before_their_names() -> None:
    found = order.written_first("swift")
    assert found is not None
    assert found[0] == found[1] > 0


@pytest.mark.slow
def test_one_loss() -> None:
    good, total = loss.cuts("swift")
    assert good == total == 6 * 17


def test_the_page_says_what_was_found() -> None:
    found = json.loads(prove.FOUND.read_text())
    assert set(found) == set(prove.CLAIMS)
    assert all(row["ours"][0] == row["ours"][1] for row in found.values())
    rows = prove.page(found).splitlines()
    table = [line for line in rows if line.startswith("| ")]
    assert [line for line in prove.PAGE.read_text().splitlines() if line.startswith("| ")] == table

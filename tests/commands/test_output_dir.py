"""Where a run may write: odd names are taken, what can hold nothing is refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swift.arguments.sft import SftArguments
from swift.commands.prepare import find_source
from swift.commands.run import check_writable, choose_run
from swift.errors import OutputError


def link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


def file(path: Path) -> Path:
    path.write_text("x")
    return path


def loop(place: Path) -> Path:
    link(place / "there", place / "back")
    return link(place / "back", place / "there")


REFUSED: dict[str, Callable[[Path], Path | str]] = {
    "a file": lambda place: file(place / "a"),
    "below a file": lambda place: file(place / "a") / "b",
    "a link to itself": lambda place: link(place / "a", place / "a"),
    "below links that go round": lambda place: loop(place) / "x",
    "a name of 300 letters": lambda place: place / ("x" * 300),
    "a name of 400 bytes": lambda place: place / ("é" * 200),
    "a null byte": lambda place: f"{place}/a\0b",
    "where the system makes nothing": lambda place: "/proc/x",
    "of a user who is not there": lambda place: "~no-such-user/x",
}
TAKEN: dict[str, Callable[[Path], Path]] = {
    "other letters": lambda place: place / "你好 🌍 é",
    "200 bytes": lambda place: place / ("你 好" * 28),
    "a new line": lambda place: place / "a\nb",
    "spaces and quotes": lambda place: place / " a '\"$(touch x) ",
    "a link to what is not there yet": lambda place: link(place / "a", place / "later"),
    "further down": lambda place: place / "a" / "b" / "c",
}


@pytest.mark.parametrize("suffix", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_can_hold_nothing_is_refused(case: str, suffix: bool, tmp_path: Path, tiny_dir: Path) -> None:
    said = str(REFUSED[case](tmp_path))
    args = SftArguments(model_id_or_path=str(tiny_dir), output_dir=said, add_output_dir_suffix=suffix)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        with pytest.raises(OutputError, match="--output_dir") as caught:
            choose_run(args, find_source(args))
        assert caught.value.exit_code == 73
        assert len(str(caught.value)) < 600
    if said != "/proc/x":  # of which nothing tells beforehand
        with pytest.raises(OutputError, match="--output_dir"):
            check_writable(args)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [True, False])
@pytest.mark.parametrize("case", TAKEN)
def test_odd_names_are_names(case: str, suffix: bool, tmp_path: Path, tiny_dir: Path) -> None:
    place = TAKEN[case](tmp_path)
    args = SftArguments(model_id_or_path=str(tiny_dir), output_dir=str(place), add_output_dir_suffix=suffix)
    check_writable(args)
    run = Path(choose_run(args, find_source(args))["output_dir"])
    assert run.is_dir()
    assert list(run.iterdir()) == []
    assert run == place.resolve() if not suffix else run.is_relative_to(place.resolve())

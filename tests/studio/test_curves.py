"""Curves are those of the log, for logs of every kind, and pictures hold nothing but themselves."""

from __future__ import annotations

import itertools
import json
import math
import random
import xml.etree.ElementTree as tree
from pathlib import Path

import pytest

from swift.studio import curves
from swift.studio.curves import HEIGHT, MEMORY, WIDTH, Line, Log, draw, number, read_log, smoothed, thinned, ticks


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_a_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    assert read_log(path).curves == {}
    first = {"loss": 3.0, "acc": 0.5, "learning_rate": 0.0, "memory(GiB)": 1.5, "train_speed(token/s)": 900, "global_step": 1}  # fmt: skip
    write(path, first, {"eval_loss": 2.5, "global_step": 1}, '{"loss": 2.')
    log = read_log(path)
    assert log.curves["loss"] == [(1, 3.0)]
    assert log.curves["eval_loss"] == [(1, 2.5)]
    assert (log.last("memory"), log.last("speed"), log.step, log.report) == (1.5, 900.0, 1, None)
    write(path, first, {"loss": 2.0, "global_step": 2}, {"log_history": [], "global_step": 2})
    log = read_log(path)
    assert log.curves["loss"] == [(1, 3.0), (2, 2.0)]
    assert log.report is not None


def test_a_resumed_log_counts_every_step_once(tmp_path: Path) -> None:
    rows = [{"loss": step, "global_step": step} for step in (1, 2, 3)]
    path = write(tmp_path / "l", *rows, {"log_history": []}, {"loss": 9.0, "global_step": 3}, {"loss": 8.0, "global_step": 4})  # fmt: skip
    assert read_log(path).curves["loss"] == [(1, 1.0), (2, 2.0), (3, 9.0), (4, 8.0)]
    assert read_log(path).report is None


@pytest.mark.parametrize("row", ["[]\n", '"x"\n', "null\n", '{"loss": NaN, "global_step": 1}\n', '{"loss": "x", "global_step": 1}\n', '{"loss": 1}\n', "\xff\n"])  # fmt: skip
def test_rows_of_no_use_are_passed_over(tmp_path: Path, row: str) -> None:
    path = tmp_path / "l"
    path.write_bytes(row.encode("latin-1") + b'{"loss": 1.0, "global_step": 5}\n')
    assert read_log(path).curves == {"loss": [(5, 1.0)]}


def test_thinning_keeps_what_stands_out() -> None:
    points = [(k, random.Random(k).random()) for k in range(20_000)]
    points[777] = (777, -5.0)
    points[13_333] = (13_333, 7.0)
    kept = thinned(points)
    assert len(kept) <= 402
    assert {(777, -5.0), (13_333, 7.0), points[0], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:300]) == points[:300]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.123, 0.124), (-3, 5), (1e-6, 9e-5), (0, 1e6), (5, 5.0001)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 4)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def drawn(text: str) -> tree.Element:
    return tree.fromstring(text.replace("&nbsp;", " "))


@pytest.mark.parametrize(
    "points",
    [
        [(1, 2.0)],
        [(1, 2.0), (2, 2.0)],
        [(0, 0.0), (1, 0.0)],
        [(5, -1.0), (9, 4.0)],
        [(k, math.sin(k)) for k in range(2000)],
    ],
)
def test_a_picture_is_whole_and_every_point_is_in_it(points: list[tuple[int, float]]) -> None:
    root = drawn(draw("Loss", [Line("loss", points)]))
    for line in root.iter("polyline"):
        for place in line.attrib["points"].split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    assert "Loss" in next(root.iter("svg")).attrib["aria-label"]


def test_logs_are_kept_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_READ", {})
    monkeypatch.setattr(curves, "MOST_READ", 3)
    paths = [write(tmp_path / f"{k}.jsonl", {"loss": k, "global_step": 1}) for k in range(4)]
    first = [read_log(path) for path in paths[:3]]
    assert all(read_log(path) is log for path, log in zip(paths, first, strict=False))
    read_log(paths[3])
    assert read_log(paths[1]) is first[1]
    assert list(curves._READ) == paths[1:]


def test_a_log_that_goes_while_it_is_read_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(tmp_path / "a.jsonl", {"loss": 1, "global_step": 1}), curves._parse
    monkeypatch.setattr(curves, "_parse", lambda path: (path.unlink(), real(path))[1])
    assert read_log(path) == Log({})


def test_names_are_escaped_and_nothing_is_drawn_of_nothing() -> None:
    evil = '<script>alert(1)</script>"onload="x'
    text = draw(evil, [Line(evil, [(1, 1.0), (2, 2.0)])], evil, evil)
    assert "<script>" not in text
    assert '"onload' not in text
    root = drawn(draw("Loss", [], nothing="nothing yet"))
    assert not list(root.iter("polyline"))
    assert "nothing yet" in "".join(root.itertext())


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0, 1.23456, 0.00005, 123456, 0.5)] == ["0", "1.235", "5.0e-5", "123.5k", "0.5"]


def test_an_average_follows_and_keeps_a_constant() -> None:
    assert [value for _, value in smoothed([(k, 3.0) for k in range(50)])] == pytest.approx([3.0] * 50)
    noisy = [(k, 5 - k / 50 + (-1) ** k) for k in range(100)]
    found = [value for _, value in smoothed(noisy)]
    assert max(abs(b - a) for a, b in itertools.pairwise(found[20:])) < 0.7
    assert found[-1] < found[20]
    weights = [MEMORY**k for k in range(100)]
    mean = sum(w * v for w, (_, v) in zip(weights, reversed(noisy), strict=True)) / sum(weights)
    assert found[-1] == pytest.approx(mean)
    assert draw("x", [Line("loss", noisy, smooth=True)]).count("<polyline") == 2
    assert draw("x", [Line("loss", noisy[:5], smooth=True)]).count("<polyline") == 1

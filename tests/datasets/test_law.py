"""The law of the room: every row read is trained on, validated on, or dropped for a reason, with its file and line."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.datasets.load import load_datasets
from swift.datasets.source import Reading, Source
from swift.datasets.spec import parse_spec
from swift.datasets.stream import Stream
from swift.errors import ConfigError, DataError
from tests.datasets.fake import FakeTemplate

MOST = 10**6
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
ANSWER = TEXT.filter(lambda text: bool(text.strip()))
GOOD = {
    "query/response": st.builds(lambda q, a: {"query": q, "response": a}, TEXT, ANSWER),
    "alpaca": st.builds(lambda q, a: {"instruction": q, "input": "", "output": a}, TEXT, ANSWER),
    "messages": st.builds(
        lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}, TEXT, ANSWER
    ),
    "conversations": st.builds(
        lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}, TEXT, ANSWER
    ),
    "sharegpt": st.builds(lambda q, a: {"conversation": [{"human": q, "assistant": a}]}, TEXT, ANSWER),
    "text": st.builds(lambda a: {"text": a}, ANSWER),
}
BAD_ROWS = st.sampled_from(
    [{}, {"other": 1}, {"query": "q", "response": None}, {"messages": []}, {"text": 3}, {"text": ""}]
)
BAD_LINES = st.sampled_from(["{", "[]", "null", '{"a": "\\ud800"}', '{"text": "x", "text": "y"}', '{"text": "\0"}'])


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, int]:
    """(ending, content, rows in it), with good and bad rows in any mixture."""
    rows = draw(st.lists(st.one_of(GOOD[draw(st.sampled_from(sorted(GOOD)))], BAD_ROWS), max_size=12))
    if draw(st.booleans()):
        mark = draw(st.sampled_from([",", ",\n"]))
        return ".json", f"[{mark.join(json.dumps(row) for row in rows)}]", len(rows)
    lines = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows] + draw(st.lists(BAD_LINES, max_size=4))
    lines = draw(st.permutations(lines))
    blank = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n  \n"]))
    return ".jsonl", blank.join(lines), len(lines)


def account(ledger: Ledger) -> tuple[int, int]:
    """(rows with a place, rows read), counted from the report alone."""
    report = json.loads(json.dumps(ledger.to_json()))
    dropped = [places for reason in report["dropped"].values() for places in reason["lines"].values()]
    placed = report["train"]["rows"] + report["validation"]["rows"] + sum(map(len, dropped))
    return placed, report["rows_read"]


def refused(error: DataError | ConfigError, *codes: str) -> None:
    event(f"refused with {error.code}")
    if error.code not in codes:
        raise error


def encode_or_none(rows: Any, template: FakeTemplate, ledger: Ledger, split: Any) -> EncodedDataset | None:
    try:
        return encode(rows, template, ledger, split=split, batch_size=3)
    except DataError as error:
        return refused(error, "DATA-05")


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    file=files(),
    sample=st.one_of(st.none(), st.integers(1, 30)),
    ratio=st.one_of(st.sampled_from([0.0, 0.01, 1.0]), st.floats(0, 1)),
    max_length=st.one_of(st.none(), st.integers(1, 20)),
    data=st.data(),
)
def test_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    file: tuple[str, str, int],
    sample: int | None,
    ratio: float,
    max_length: int | None,
    data: st.DataObject,
) -> None:
    ending, content, count = file
    path = tmp_path_factory.getbasetemp() / f"law{ending}"
    path.write_bytes(content.encode())
    try:
        loaded = load_datasets(
            f"{path}#{sample}" if sample else str(path), test_ratio=ratio, max_bad_rows=MOST, seed=count
        )
    except DataError as error:
        return refused(error, "DATA-04", "DATA-05")
    ledger = loaded.ledger
    assert account(ledger) == (count, count)
    good = {row["where"] for row in [*loaded.train, *(loaded.val or [])]}
    letter = data.draw(st.sampled_from(["\0", *"".join(m["content"] for row in loaded.train for m in row["messages"])]))
    template = FakeTemplate(max_length, refuses=letter)
    train = encode_or_none(loaded.train, template, ledger, "train")
    val = encode_or_none(loaded.val, template, ledger, "validation") if loaded.val else None
    assert account(ledger) == (count, count)
    assert ledger.balanced
    assert ledger.parts["train"].examples == len(train or [])
    assert ledger.parts["validation"].examples == len(val or [])
    left_out = [place for places in ledger.dropped.values() for place in places]
    assert len(left_out) == len(set(left_out))
    lines = content.split("\n")
    for place in left_out:
        number = int(place.removeprefix(f"{path}:").partition(" ")[0])
        assert lines[number - 1].strip()
    assert len(good | set(left_out)) == count


@settings(max_examples=50, derandomize=True, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, st.one_of(ANSWER, st.just("")))), cut=st.integers(0, 3))
def test_every_csv_record_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "law.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("query", "response"))
        writer.writerows(rows)
        writer.writerows([["short"]] * cut)
    try:
        ledger = load_datasets(str(path), max_bad_rows=MOST).ledger
    except DataError as error:
        return refused(error, "DATA-05")
    assert account(ledger) == (len(rows) + cut, len(rows) + cut)
    assert ledger.trained + ledger.parts["validation"].rows == sum(bool(answer) for _, answer in rows)


def dropped_lines(ledger: Ledger) -> dict[str, list[str]]:
    return {reason: sorted(places) for reason, places in ledger.dropped.items()}


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    sets=st.lists(files(), min_size=1, max_size=3),
    share=st.sampled_from(["", "@1", "@0.3"]),
    sample=st.sampled_from(["", "#2", "#9"]),
    until=st.sampled_from(["first_exhausted", "all_exhausted"]),
    interleave=st.booleans(),
    ratio=st.sampled_from([0.0, 0.3]),
    further=st.sampled_from([0.0, 0.5, 3.0]),
    max_length=st.integers(1, 12),
    strategy=st.sampled_from(["delete", "truncation_left"]),
)
def test_every_row_of_a_mix_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    sets: list[tuple[str, str, int]],
    share: str,
    sample: str,
    until: str,
    interleave: bool,
    ratio: float,
    further: float,
    max_length: int,
    strategy: str,
) -> None:
    place, texts = tmp_path_factory.getbasetemp(), []
    for k, (ending, content, _) in enumerate(sets):
        path = place / f"mix{k}{ending}"
        path.write_bytes(content.encode())
        texts.append(f"{path}{sample}{share}")
    how: dict[str, Any] = {"interleave": interleave, "stopping_strategy": until, "test_ratio": ratio}
    more = place / "more.jsonl"
    more.write_text("".join(f'{{"text": "{k}"}}\n' for k in range(5)), encoding="utf-8")
    try:
        loaded = load_datasets(texts, mix_specs=str(more), mix_ratio=further, max_bad_rows=MOST, **how)
    except (DataError, ConfigError) as error:
        return refused(error, "DATA-04", "DATA-05", "CONFIG-02")
    ledger, template = loaded.ledger, FakeTemplate(max_length, strategy)
    count = sum(count for _, _, count in sets) + (5 if further else 0)
    for part, rows in (("train", loaded.train), ("validation", loaded.val)):
        if rows:
            encode_or_none(rows, template, ledger, part)
    assert account(ledger) == (count, count)
    assert ledger.balanced
    lines = [line for lines in dropped_lines(ledger).values() for line in lines]
    cut = list(ledger.cut)
    assert len({*lines, *cut}) == len(lines) + len(cut)  # one fate each; a row that was cut is used
    assert bool(cut) == any(share.truncated for share in ledger.parts.values())


@settings(max_examples=100, derandomize=True, deadline=None)
@given(file=files(), buffer=st.integers(1, 9), max_length=st.integers(1, 12))
def test_one_epoch_of_a_stream_has_the_account_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, str, int], buffer: int, max_length: int
) -> None:
    ending, content, count = file
    path = tmp_path_factory.getbasetemp() / f"stream{ending}"
    path.write_bytes(content.encode())
    template = FakeTemplate(max_length, "truncation_left")
    try:
        loaded = load_datasets(str(path), test_ratio=0, max_bad_rows=-1)
        examples = len(encode(loaded.train, template, loaded.ledger))
    except DataError as error:
        return refused(error, "DATA-04", "DATA-05")
    source = Source(parse_spec(str(path)), Reading({}, None, True))
    stream = Stream([source], template, Ledger(-1), buffer_size=buffer)
    given = list(itertools.islice(stream, examples + 1))  # one more, so that the epoch's end was reached
    assert len(given) == examples + 1
    stream.settle(examples + 1)
    assert account(stream.ledger) == (count, count)
    assert dropped_lines(stream.ledger) == dropped_lines(loaded.ledger)
    assert sorted(stream.ledger.cut) == sorted(loaded.ledger.cut)


def test_two_files_and_a_repeated_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    ledger = load_datasets([str(path), f"{path}#1", f"{path}#9"], test_ratio=0).ledger
    assert account(ledger) == (6, 6)
    assert ledger.summary() == "rows: 6 read = 5 trained + 0 validation + 1 not sampled (7 drawn again)"

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.arguments.pt import PtArguments
from swift.arguments.rlhf import RLHFArguments
from swift.commands.streams import how_encoded
from swift.datasets.ledger import Ledger
from swift.datasets.load import how_to_read, parse_specs
from swift.datasets.mix import ALL, choose_mix
from swift.datasets.source import Source
from swift.datasets.stream import Stream
from swift.errors import ConfigError, DataError
from tests.datasets.fake import FakeTemplate


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(count: int, name: str = "") -> list[dict[str, str]]:
    return [{"query": f"q{i}", "response": f"{name}{i}"} for i in range(1, count + 1)]


def stream(
    *texts: str, template: FakeTemplate | None = None, bad: int = 0, interleave: bool = False, **how: Any
) -> Stream:
    specs = parse_specs(texts)
    mix = choose_mix(specs, interleave, until=how.pop("until", "first_exhausted"))
    sources = [Source(spec, how_to_read(specs), streaming=True) for spec in specs]
    return Stream(sources, template or FakeTemplate(), Ledger(bad), mix=mix, **how)


def said(example: dict[str, Any]) -> str:
    learnt = [label for label in example["labels"] if label > 1]
    return "".join(map(chr, learnt))


def take(rows: Stream, count: int) -> list[str]:
    return [said(example) for example in itertools.islice(rows, count)]


def test_an_epoch_has_every_row_once_and_each_another_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(25))
    every = [str(i) for i in range(1, 26)]
    given = take(stream(path, buffer_size=10), 75)
    epochs = [given[:25], given[25:50], given[50:]]
    assert all(sorted(epoch) == sorted(every) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs} | {tuple(every)}) == 4
    assert sorted(given[:10]) == sorted(every[:10])  # shuffled within the buffer only
    assert take(stream(path, buffer_size=10), 75) == given
    assert take(stream(path, buffer_size=10, seed=1), 75) != given
    assert take(stream(path, buffer_size=1), 50) == [*every, *every]


def test_the_first_example_is_given_again(tmp_path: Path) -> None:
    rows = stream(write(tmp_path / "a.jsonl", numbered(9)), buffer_size=4)
    first = said(rows.first())
    assert rows.ledger.rows_read == 0
    assert take(rows, 3)[0] == first == said(rows.first())


def test_the_account_is_of_what_was_trained_on(tmp_path: Path) -> None:
    rows = [*numbered(5), {"query": "q", "response": None}, *numbered(5), {"query": "q", "response": "x" * 50}]
    path = write(tmp_path / "a.jsonl", rows)
    one = stream(path, template=FakeTemplate(max_length=20), bad=1, buffer_size=1)
    assert len(take(one, 25)) == 25
    one.settle(7)
    assert one.ledger.summary() == "rows: 8 read = 7 trained + 0 validation + 1 bad row"
    one.settle(25)
    assert one.ledger.balanced
    summary = "rows: 12 read = 10 trained + 0 validation + 1 bad row + 1 longer than 20 tokens (15 drawn again)"
    assert one.ledger.summary() == summary
    assert one.ledger.dropped["longer than 20 tokens"] == [f"{path}:12"]
    assert one.ledger.sources == [{"dataset": path, "format": "query/response", "rows": 12}]
    assert one.ledger.parts["train"].supervised == sum(len(f"{i}") + 1 for i in (1, 2, 3, 4, 5)) * 5


def test_a_bad_row_stops_the_stream_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, numbered(30))
    path.write_text(path.read_text() + "{\n", encoding="utf-8")
    rows = iter(stream(str(path), buffer_size=10))
    assert len(list(itertools.islice(rows, 30))) == 30
    with pytest.raises(DataError, match=r"a\.jsonl:31: column 2: the line is cut off"):
        next(rows)
    template = FakeTemplate(refuses="q7")
    with pytest.raises(DataError, match=r'a\.jsonl:7: "messages\[0\]" does not fit'):
        take(stream(str(path), buffer_size=10, template=template), 20)


@pytest.mark.parametrize("rows", [[], [{"query": "q", "response": "too long"}]])
def test_a_stream_without_rows_ends_with_the_account(tmp_path: Path, rows: list[Any]) -> None:
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="DATA-05") as caught:
        stream(path, template=FakeTemplate(max_length=3)).first()
    assert f"rows: {len(rows)} read" in str(caught.value)


def test_held_out_rows_are_never_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(20))
    rows = stream(path, buffer_size=7, val_size=4)
    held = rows.hold_out()
    assert [row["where"] for row in held] == [f"{path}:{i}" for i in (1, 2, 3, 4)]
    assert set(take(rows, 48)) == {str(i) for i in range(5, 21)}
    rows.settle(16)
    assert rows.ledger.summary() == "rows: 20 read = 16 trained + 4 validation"
    with pytest.raises(DataError, match="DATA-05"):
        stream(path, val_size=20).first()


def test_rows_of_several_sets(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", numbered(6, "a")), write(tmp_path / "b.jsonl", numbered(3, "b"))
    assert take(stream(f"{a}#2", b, buffer_size=1), 7) == ["a1", "a2", "b1", "b2", "b3", "a1", "a2"]
    rows = stream(a, b, interleave=True, buffer_size=1)
    assert take(rows, 8) == ["a1", "b1", "a2", "b2", "a3", "b3", "a4", "a1"]
    rows = stream(a, b, interleave=True, until=ALL, buffer_size=1)
    assert take(rows, 14) == ["a1", "b1", "a2", "b2", "a3", "b3", "a4", "b1", "a5", "b2", "a6", "b3", "a1", "b1"]
    rows.settle(14)
    assert rows.ledger.summary() == "rows: 9 read = 9 trained + 0 validation (5 drawn again)"
    assert rows.ledger.balanced


def test_packs_are_made_of_a_block_and_gone_on_with(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*numbered(20), {"query": "q", "response": None}])
    how: dict[str, Any] = {"bad": 1, "buffer_size": 7, "pack_size": 12}
    packs = list(itertools.islice(stream(path, **how), 9))
    assert all(len(pack["input_ids"]) <= 12 for pack in packs)
    assert len(packs[0]["input_ids"]) == 10
    whole = take(stream(path, **how), 30)
    for examples in range(1, 12):
        after = resumed(path, str(examples), **how)
        assert take(after, 30 - examples) == whole[examples:]
        after.settle(11)
        straight = stream(path, **how)
        take(straight, 11)
        straight.settle(11)
        assert after.ledger.to_json() == straight.ledger.to_json()
        assert after.ledger.balanced
    with pytest.raises(ConfigError, match="pack_size was 12, is None"):
        stream(path, bad=1, buffer_size=7).from_state(straight.to_state(11))


def test_the_account_of_packs_is_that_of_their_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(9))  # of 5 tokens each: 2 of the query and 3 of "q1", "1" and two ends
    one = stream(path, buffer_size=9, pack_size=10)
    packs = list(itertools.islice(one, 5))
    assert [len(pack["input_ids"]) // 5 for pack in packs] == [2, 2, 2, 2, 1]
    one.settle(2)
    assert one.ledger.trained == 4
    one.settle(5)
    assert one.ledger.trained == 9
    assert sorted("".join(map(said, packs))) == list("123456789")


def resumed(*texts: str, template: FakeTemplate | None = None, **how: Any) -> Stream:
    """A fresh stream that goes on after `texts[-1]` examples of another."""
    *paths, examples = texts
    before = stream(*paths, template=template, **how)
    before.hold_out()
    taken = list(itertools.islice(before, int(examples) + 3))  # read ahead, as a loader does
    assert taken
    state = json.loads(json.dumps(before.to_state(int(examples))))
    after = stream(*paths, template=template, **how)
    after.hold_out()
    after.from_state(state)
    return after


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    buffer=st.integers(1, 9),
    val=st.integers(0, 2),
    interleave=st.booleans(),
    until=st.sampled_from(["first_exhausted", ALL]),
    examples=st.integers(1, 60),
    broken=st.integers(1, 14),
)
def test_going_on_is_exact_and_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    buffer: int,
    val: int,
    interleave: bool,
    until: str,
    examples: int,
    broken: int,
) -> None:
    place = tmp_path_factory.getbasetemp()
    texts = []
    for k, size in enumerate(sizes):
        rows: list[Any] = [
            {"query": "q", "response": "y" * 30} if i == broken else row
            for i, row in enumerate(numbered(size, f"s{k}r"))
        ]
        rows += [{"query": "q", "response": None}]
        texts.append(write(place / f"{k}.jsonl", rows))
    how: dict[str, Any] = {"buffer_size": buffer, "val_size": val, "interleave": interleave, "until": until, "bad": 3}
    template = FakeTemplate(max_length=20)
    whole = stream(*texts, template=template, **how)
    try:
        whole.hold_out()
        expected = take(whole, examples + 20)
    except DataError as error:
        if error.code != "DATA-05":
            raise
        return
    after = resumed(*texts, str(examples), template=template, **how)
    assert take(after, 20) == expected[examples:]
    whole.settle(examples + 20)
    after.settle(examples + 20)
    assert after.ledger.to_json() == whole.ledger.to_json()
    assert after.ledger.balanced


def test_another_stream_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(9))
    rows = stream(path, buffer_size=4)
    take(rows, 5)
    with pytest.raises(ConfigError, match="streaming_buffer_size was 4, is 5"):
        stream(path, buffer_size=5).from_state(rows.to_state(5))


def test_a_stream_encoded_otherwise_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered(9))
    said = PtArguments(template_type="chatml", system="s", text_unit="line")
    rows = stream(path, options=how_encoded(said))
    take(rows, 5)
    state = rows.to_state(5)
    for other in ({"template_type": "qwen"}, {"system": "t"}, {"text_unit": "file"}):
        (name,) = other
        with pytest.raises(ConfigError, match=f"{name} was"):
            stream(path, options=how_encoded(replace(said, **other))).from_state(state)
    prompts = [how_encoded(RLHFArguments(max_prompt_length=size)) for size in (7, 8)]
    assert prompts[0] != prompts[1]
    older = {**state, "identity": {name: state["identity"][name] for name in ("datasets", "seed")}}
    stream(path, options=how_encoded(said)).from_state(older)


def test_a_hub_is_read_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(source: str, subset: str | None, **how: Any) -> Any:
        asked.append({"source": source, "subset": subset, **how})
        return ({"query": "q", "response": str(i)} for i in itertools.count(1))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert take(stream("HF::some/set:en", buffer_size=1), 3) == ["1", "2", "3"]
    assert asked == [{"source": "some/set", "subset": "en", "split": "train", "revision": None, "streaming": True}]

"""Texts in pieces: no token is lost, none is learnt twice, whatever the lengths and however they are read."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.datasets.blocks import Blocks, block_of
from swift.datasets.digest import digest_of_rows
from swift.datasets.encode import EncodedDataset
from swift.datasets.ledger import Ledger
from swift.datasets.load import how_to_read, load_datasets, parse_specs
from swift.datasets.pack import PackedDataset
from swift.datasets.pieces import Joined, Pieces, count_pieces
from swift.datasets.source import ENDLESS, Source
from swift.datasets.stream import Stream
from swift.errors import DataError
from swift.templates import tokens
from tests.datasets.fake import END, FakeTemplate
from tests.tiny import tiny_tokenizer

Lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def whole_rows(lengths: list[int]) -> EncodedDataset:
    """Rows whose ids tell every token of them all."""
    starts = np.cumsum([0, *lengths])
    rows = [{"input_ids": list(range(a, b)), "labels": list(range(a, b))} for a, b in itertools.pairwise(starts)]
    return EncodedDataset(Blocks([block_of(rows)]), np.arange(len(rows)))


def learnt(rows: Any) -> list[tuple[int, int]]:
    """Every (token, next token) that the rows teach, in order."""
    found = []
    for k in range(len(rows)):
        row = rows[k]
        ids, labels = list(row["input_ids"]), list(row["labels"])
        found += [(a, label) for a, label in zip(ids, labels[1:], strict=False) if label != -100]
    return found


@settings(max_examples=60, deadline=None)
@given(lengths=Lengths, size=st.integers(2, 17))
def test_every_token_is_learnt_once_from_the_one_before(lengths: list[int], size: int) -> None:
    rows = whole_rows(lengths)
    pieces, joined = Pieces(rows, size), Joined(rows, size)
    ends = np.cumsum(lengths)
    within = [(t - 1, t) for t in range(1, ends[-1]) if t not in ends]
    assert learnt(pieces) == within
    assert learnt(joined) == [(t - 1, t) for t in range(1, ends[-1])]
    for found in (pieces, joined):
        assert found.lengths == [len(found[k]["input_ids"]) for k in range(len(found))]
        assert max(found.lengths) <= size
        assert found.num_supervised == sum(lengths)
    assert len(pieces) == count_pieces(lengths, size).sum()
    assert set(joined.lengths[:-1]) <= {size}
    packed = PackedDataset(pieces, size)
    assert sorted(learnt(packed)) == within


def test_a_text_comes_out_again_as_it_went_in() -> None:
    pieces = Pieces(whole_rows([23, 5, 40]), 8)
    told: list[int] = []
    for k in range(len(pieces)):
        again = bool(told) and pieces[k]["labels"][0] == -100
        told += pieces[k]["input_ids"][again:]
    assert told == list(range(68))


def test_pieces_of_another_size_are_other_rows() -> None:
    rows = whole_rows([30, 40])
    shapes = [rows, Pieces(rows, 8), Pieces(rows, 9), Joined(rows, 8), Joined(rows, 9), PackedDataset(rows, 64)]
    shapes.append(PackedDataset(Pieces(rows, 8), 64))
    assert len({digest_of_rows(one) for one in shapes}) == len(shapes)


# Streams


def texts_file(path: Path, lengths: list[int]) -> str:
    """A jsonl file of texts none of whose letters comes twice."""
    starts = np.cumsum([0, *lengths])
    texts = ["".join(chr(300 + t) for t in range(a, b)) for a, b in itertools.pairwise(starts)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def stream(path: str, isolate: bool = True, **how: Any) -> Stream:
    specs = parse_specs([path])
    template = FakeTemplate(8, "split")
    template._encode = lambda i, row, errors: _whole(row)  # type: ignore[method-assign]
    return Stream([Source(specs[0], how_to_read(specs), streaming=True)], template, Ledger(), isolate=isolate, **how)


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    ids = [*map(ord, row["messages"][0]["content"]), END]
    return {"input_ids": ids, "labels": ids[:]}


WAYS = ({}, {"pack_size": 8}, {"pack_size": 8, "isolate": False})


@pytest.mark.parametrize("how", WAYS)
def test_a_stream_gives_the_same_pieces_and_goes_on_to_the_bit(tmp_path: Path, how: dict[str, Any]) -> None:
    lengths = [21, 3, 9, 30, 7, 7, 2, 16, 5, 11]
    path = texts_file(tmp_path / "a.jsonl", lengths)
    one = stream(path, buffer_size=4, **how)
    given, want = [], {300 + t for t in range(sum(lengths))}
    for example in one:
        given.append({name: np.asarray(values).tolist() for name, values in example.items()})
        one.settle(len(given))
        if one.ledger.trained == len(lengths):
            break
    taught = [label for example in given for label in example["labels"][1:] if label not in (-100, END)]
    firsts = {300 + t for t in np.cumsum([0, *lengths[:-1]]).tolist()}
    assert sorted(taught) == sorted(set(taught))
    lost = want - set(taught)
    assert lost == firsts if how.get("isolate", True) else lost < firsts
    assert len(lost) == (len(lengths) if how.get("isolate", True) else 3)  # the first of each of three blocks
    share = one.ledger.parts["train"]
    assert (share.supervised, share.rows) == (sum(lengths) + len(lengths), len(lengths))
    counts = {"train": int(count_pieces(np.array(lengths) + 1, 8).sum())} if how.get("isolate", True) else {}
    assert one.ledger.pieces == counts
    for middle in range(len(given)):
        before = stream(path, buffer_size=4, **how)
        list(itertools.islice(before, middle))
        after = stream(path, buffer_size=4, **how)
        after.from_state(json.loads(json.dumps(before.to_state(middle))))
        rest = [{k: np.asarray(v).tolist() for k, v in e.items()} for e in itertools.islice(after, len(given) - middle)]
        assert rest == given[middle:]
        after.settle(len(given))
        assert after.ledger.to_json() == one.ledger.to_json()


# Text files


def test_what_a_text_is_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\r\nfour\n", encoding="utf-8")

    def texts(unit: str, skip: int = 0) -> list[tuple[str, str]]:
        specs = parse_specs([str(tmp_path / "a.txt")])
        source = Source(specs[0], how_to_read(specs, text_unit=unit))
        return [(where[-1], row["messages"][0]["content"]) for where, row in source.rows(skip=skip)]  # type: ignore[index]

    assert texts("line") == [("1", "one"), ("2", "two"), ("5", "three"), ("6", "four")]
    assert texts("paragraph") == [("1", "one\ntwo"), ("5", "three\r\nfour")]
    assert texts("paragraph", 1) == [("5", "three\r\nfour")]
    assert texts("file") == [("1", "one\ntwo\n\n\nthree\r\nfour")]
    assert texts("file", 1) == []
    (tmp_path / "a.txt").write_bytes(b"fine\nnot \xff\n")
    with pytest.raises(DataError, match=r"a\.txt:2: byte 10 of the text is not UTF-8"):
        load_datasets(str(tmp_path / "a.txt"), text_unit="file")


def test_a_text_of_any_length_is_taken_when_it_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swift.datasets import source

    monkeypatch.setattr(source, "MOST_CHARACTERS", 8)
    path = texts_file(tmp_path / "a.jsonl", [30, 4, 6])
    dropped = load_datasets(path, test_ratio=0).ledger.dropped
    assert len(dropped[ENDLESS]) == 1
    assert load_datasets(path, test_ratio=0, endless=True).ledger.dropped == {}


@settings(max_examples=25, deadline=None)
@given(lines=st.lists(st.text(st.sampled_from("ab c,.é\n\t 世1"), max_size=30), min_size=1, max_size=30))
def test_a_long_text_has_the_same_tokens_in_stretches(lines: list[str]) -> None:
    tokenizer, text = tiny_tokenizer(), "\n".join(lines)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "LONGEST", 16)
        patch.setattr(tokens, "AROUND", 12)
        assert tokens.tokenise(tokenizer, [text, "x"])[0] == whole
        if len(text) > 60 and "\na" in text[8:16]:
            assert len(tokens._stretches(tokenizer, text)) > 1

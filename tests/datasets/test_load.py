from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swift import hub
from swift.datasets import DATASETS, DatasetRecord
from swift.datasets.load import get_dataset, load_datasets
from swift.errors import DataError, NotFoundError, SeveralErrors, UsageError


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def numbered(count: int) -> list[dict[str, str]]:
    return [{"query": f"q{i}", "response": f"a{i}"} for i in range(1, count + 1)]


def lines(rows: Any) -> list[int]:
    return [int(row["where"].rpartition(":")[2]) for row in rows or []]


@pytest.fixture
def ten(tmp_path: Path) -> str:
    return write(tmp_path / "ten.jsonl", numbered(10))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


def test_split_is_seeded_and_shares_no_row(ten: str) -> None:
    loaded = load_datasets(ten, test_ratio=0.3, seed=1)
    assert sorted(lines(loaded.train) + lines(loaded.val)) == list(range(1, 11))
    assert len(loaded.val or []) == 3
    again = load_datasets(ten, test_ratio=0.3, seed=1)
    assert (again.train, again.val) == (loaded.train, loaded.val)
    other = load_datasets(ten, test_ratio=0.3, seed=2)
    assert lines(other.train) != lines(loaded.train) != list(range(1, 8))


def test_every_set_is_split_on_its_own(ten: str, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", numbered(100))
    loaded = load_datasets([ten, one], test_ratio=0.1)
    alone = load_datasets(one, test_ratio=0.1)
    assert lines(loaded.val)[1:] == lines(alone.val)
    assert lines(loaded.train)[9:] == lines(alone.train)


@pytest.mark.parametrize(
    ("rows", "sample", "ratio", "train", "val"),
    [
        (10, None, 0.01, 9, 1),
        (10, 4, 0.5, 2, 2),
        (10, 25, 0.2, 23, 2),
        (10, None, 0, 10, 0),
        (10, None, 1, 0, 10),
        (10, 3, 1, 0, 3),
        (10, 15, 1, 0, 15),
        (1, None, 0.01, 1, 0),
        (1, 5, 0.5, 5, 0),
        (10, 1, 0.5, 1, 0),
        (2, None, 0.99, 1, 1),
    ],
)
def test_counts(tmp_path: Path, rows: int, sample: int | None, ratio: float, train: int, val: int) -> None:
    path = write(tmp_path / "a.jsonl", numbered(rows))
    loaded = load_datasets(f"{path}#{sample}" if sample else path, test_ratio=ratio)
    assert (len(loaded.train), len(loaded.val or [])) == (train, val)
    assert (loaded.val is None) == (val == 0)
    assert loaded.ledger.balanced
    used = {*lines(loaded.train), *lines(loaded.val)}
    assert len(used) == min(rows, sample or rows)
    if ratio < 1:
        assert not {*lines(loaded.train)} & {*lines(loaded.val)}
    assert len(loaded.ledger.dropped.get("not sampled", [])) == rows - len(used)


def test_validation_sets_leave_training_whole(ten: str, tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", numbered(5))
    loaded = load_datasets(ten, val_specs=f"{held}#4", test_ratio=0.5)
    assert (len(loaded.train), len(loaded.val or [])) == (10, 4)
    assert loaded.ledger.summary() == "rows: 15 read = 10 trained + 4 validation + 1 not sampled"


@pytest.mark.parametrize(("ratio", "added"), [(0.5, 4), (0.0, 0), (2.0, 16), (0.1, 0), (1.0, 8)])
def test_further_rows_are_a_share_of_those_that_train(ten: str, tmp_path: Path, ratio: float, added: int) -> None:
    more = [write(tmp_path / f"more{k}.jsonl", numbered(4)) for k in range(2)]
    loaded = load_datasets(f"{ten}#9", test_ratio=0.1, mix_specs=[more[0], f"{more[1]}#3"], mix_ratio=ratio)
    drawn = [row["where"] for row in loaded.train if row["where"].rpartition(":")[0] in more]
    assert (len(loaded.train) - len(drawn), len(drawn), len(loaded.val or [])) == (8, added, 1)
    assert len(set(drawn)) == min(added, 7)
    assert not any(where.rpartition(":")[0] in more for where in (row["where"] for row in loaded.val or []))
    assert loaded.ledger.balanced
    assert loaded.ledger.rows_read == (18 if ratio else 10)


def test_there_have_to_be_rows_to_add(ten: str, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match=r"no row to add is in .*empty"):
        load_datasets(ten, mix_specs=empty, mix_ratio=0.5)


def test_any_number_of_bad_rows_may_be_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*numbered(2), *[{"query": "q", "response": None}] * 30])
    loaded = load_datasets(path, test_ratio=0, max_bad_rows=-1)
    assert (len(loaded.train), len(loaded.ledger.bad_rows)) == (2, 30)


def test_the_format_is_told_with_one_sample(ten: str, log: pytest.LogCaptureFixture) -> None:
    load_datasets(ten)
    assert f"{ten}: rows of format query/response" in log.text
    assert "first: user: 'q1' | assistant: 'a1'" in log.text
    assert "not used" not in log.text


def test_columns_not_used_are_told(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    row = {"response": "a", "query": "q", "messages": [1], **{f"c{i}": i for i in range(1, 501)}}
    load_datasets(write(tmp_path / "a.jsonl", [row]))
    assert "columns not used: messages, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 491 more" in log.text


@pytest.mark.parametrize("columns", [["Q=query", "A=response"], {"Q": "query", "A": "response"}])
def test_columns_are_renamed(tmp_path: Path, columns: Any) -> None:
    path = write(tmp_path / "a.jsonl", [{"Q": "q", "A": "a", "query": None}])
    train, _ = get_dataset(path, columns=columns)
    assert train == [
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "where": f"{path}:1",
            "dataset": path,
        }
    ]


def test_a_rename_loses_no_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"A": "a", "response": "b"}])
    with pytest.raises(DataError, match=r'a\.jsonl:1: "A" cannot become "response", which is there too'):
        load_datasets(path, columns=["A=response"])
    train, _ = get_dataset(path, columns=["A=-"])
    assert train
    with pytest.raises(DataError, match="--columns B=query: no data set has that column"):
        load_datasets([path, path], columns=["A=-", "B=query"])
    with pytest.raises(UsageError, match="--columns A is not a rename"):
        load_datasets(path, columns=["A"])


def test_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, [{"query": "q", "response": None}, *numbered(3), {"query": "q"}])
    path.write_text(path.read_text() + '{"query": "q", \n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_datasets(str(path))
    assert caught.value.exit_code == 65
    for text in ("3 of 6 rows", f'{path}:1: "response" is null', f"{path}:5: ", f"{path}:6: "):
        assert text in caught.value.what
    with pytest.raises(DataError):
        load_datasets(str(path), max_bad_rows=2)
    loaded = load_datasets(str(path), max_bad_rows=3, test_ratio=0)
    assert sorted(lines(loaded.train)) == [2, 3, 4]
    report = loaded.ledger.to_json()
    assert sorted(report["dropped"]["bad row"]["lines"][str(path)]) == [1, 5, 6]
    assert len(report["bad_rows"]) == 3
    assert loaded.ledger.balanced


def test_ten_thousand_rows_with_fifty_bad_ones(tmp_path: Path) -> None:
    ok = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
    bad = [
        ok[:40],
        b"\xef\xbb\xbf" + ok,
        ok.replace(b'"q"', b'"\x00"'),
        ok.replace(b'"q"', b'"\r"'),
        ok.replace(b'"q"', b'"\\ud800"'),
        ok[:-1] + b",}",
        b"[" + ok + b"]",
        ok.replace(b'"q"', b"7"),
        b'{"id": 3}',
        ok.replace(b'"a"', b"null"),
    ]
    content = [bad[i // 200 % 10] if i % 200 == 7 else ok for i in range(10_000)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(content))
    with pytest.raises(DataError) as caught:
        load_datasets(str(path))
    assert "50 of 10000 rows" in caught.value.what
    assert f"{path}:8: " in caught.value.what
    loaded = load_datasets(str(path), max_bad_rows=50, test_ratio=0)
    assert len(loaded.train) == 9_950
    assert sorted(loaded.ledger.to_json()["dropped"]["bad row"]["lines"][str(path)]) == list(range(8, 10_000, 200))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_an_empty_set_is_refused(tmp_path: Path, ten: str, name: str) -> None:
    empty = tmp_path / name
    empty.touch()
    for how in ({"specs": str(empty)}, {"specs": ten, "val_specs": str(empty)}, {"specs": str(empty), "test_ratio": 1}):
        with pytest.raises(DataError, match="no row is left to") as caught:
            load_datasets(**how)  # type: ignore[arg-type]
        assert caught.value.code == "DATA-05"
        assert "0 validation" in (caught.value.why or "")


def test_only_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [[], []])
    with pytest.raises(DataError, match="2 bad row"):
        load_datasets(path, max_bad_rows=5)


def test_every_wrong_name_is_told_at_once(ten: str) -> None:
    with pytest.raises(SeveralErrors) as caught:
        load_datasets([ten, "alpaca-em", "none.jsonl"])
    assert "alpaca-en" in str(caught.value)
    assert "none.jsonl" in str(caught.value)
    with pytest.raises(NotFoundError):
        load_datasets("none.jsonl")
    with pytest.raises(UsageError, match="between 0 and 1"):
        load_datasets(ten, test_ratio=5)


def test_nothing_asked_for_is_nothing(ten: str) -> None:
    assert get_dataset([]) == (None, None)
    train, val = get_dataset(ten, 1.0)
    assert train is None
    assert val is not None
    assert len(val) == 10


def test_a_directory_is_its_files(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", numbered(2))
    (tmp_path / "c.csv").write_text("query,response,system\nq,a,\n", encoding="utf-8")
    train, _ = get_dataset(str(tmp_path))
    assert {row["where"].rpartition("/")[2] for row in train or []} == {"b.jsonl:1", "b.jsonl:2", "c.csv:2"}
    (from_csv,) = [row for row in train or [] if "c.csv" in row["where"]]
    assert from_csv["messages"][0] == {"role": "system", "content": ""}


@pytest.mark.parametrize(
    ("name", "author", "says"),
    [
        (None, "x", "--model_name"),
        ("x", [], "--model_name"),
        (["a", "b", "c"], "x", "two forms at most"),
    ],
)
def test_self_cognition_asks_who_the_model_is(name: Any, author: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_datasets("self-cognition", model_name=name, model_author=author)


def test_one_name_serves_for_both_languages() -> None:
    loaded = load_datasets("self-cognition#500", model_name=["Ruby", None], model_author="Ann")
    assert len(loaded.train) + len(loaded.val or []) == 500
    assert all("{{" not in message["content"] for row in loaded.train for message in row["messages"])
    assert loaded.ledger.balanced


class FakeHub:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str | None, str, bool]] = []
        monkeypatch.setattr(hub, "fetch_dataset", self.fetch)
        self.rows: list[dict[str, Any]] = [{"query": "q", "response": "a"}]

    def fetch(self, hub_id: str, subset: str | None, split: str, use_hf: bool) -> Iterator[dict[str, Any]]:
        self.asked.append((hub_id, subset, split, use_hf))
        return iter(self.rows)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.delenv("USE_HF", raising=False)
    return FakeHub(monkeypatch)


def test_hub_ids_and_places(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = get_dataset(["some/set", "HF::some/set:x/y"])
    assert fake_hub.asked == [
        ("some/set", None, "train", False),
        ("some/set", "x", "train", True),
        ("some/set", "y", "train", True),
    ]
    assert sorted(row["where"] for row in train or []) == [
        "some/set/train:1",
        "some/set/x/train:1",
        "some/set/y/train:1",
    ]
    monkeypatch.setenv("USE_HF", "1")
    get_dataset("some/set")
    assert fake_hub.asked[-1][3] is True


def test_records_say_subsets_splits_and_columns(fake_hub: FakeHub) -> None:
    fake_hub.rows = [{"input": "q", "output": "a"}]
    train, _ = get_dataset("medical-en")
    assert fake_hub.asked == [("swift/medical_zh", "en", split, False) for split in ("train", "val", "test")]
    assert len(train or []) == 3
    with pytest.raises(UsageError, match="--dataset MS::medical-en:en#5"):
        get_dataset("HF::medical-en:en#5")


def test_broken_rows_of_a_record_are_dropped_and_told(fake_hub: FakeHub, log: pytest.LogCaptureFixture) -> None:
    fake_hub.rows = [{"input": "1+1?", "output": "Add.", "answer": answer} for answer in ("2", None)] + [{"input": "x"}]
    loaded = load_datasets("Azure99/blossom-math-v2", test_ratio=0)
    assert loaded.train[0]["messages"][1]["content"] == "Add.\n\nAnswer: 2"
    assert loaded.ledger.summary() == "rows: 3 read = 1 trained + 0 validation + 2 bad rows"
    assert 'blossom-math-v2/train:2: "answer" is null' in log.text
    with pytest.raises(DataError):
        get_dataset("some/other")


def test_a_record_may_leave_rows_out(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    record = DatasetRecord("picky", "own/picky", convert=lambda row: row if row["keep"] else None, drop_bad_rows=False)
    monkeypatch.setitem(DATASETS._records, "picky", record)
    fake_hub.rows = [{"response": "a", "keep": True}, {"response": "b", "keep": False}]
    loaded = load_datasets("picky", test_ratio=0)
    assert loaded.ledger.dropped == {"left out by the data set's own rule": ["own/picky/train:2"]}
    fake_hub.rows.append({"response": "b"})
    with pytest.raises(DataError, match="own/picky/train:3: KeyError: 'keep'"):
        load_datasets("picky")


def test_rows_without_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": "q"}, {"query": "q", "response": "a"}])
    with pytest.raises(DataError):
        load_datasets(path)
    _, val = (
        load_datasets(path, test_ratio=1, answers=False).train,
        load_datasets(path, test_ratio=1, answers=False).val,
    )
    assert sorted(len(row["messages"]) for row in val or []) == [1, 2]

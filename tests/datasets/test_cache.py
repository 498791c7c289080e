from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from swift import hub, storage
from swift.arguments.sft import SftArguments
from swift.commands.rows import read_data
from swift.datasets import cache
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.errors import DataError
from swift.templates.template import get_template
from tests.datasets.fake import FakeTemplate
from tests.datasets.test_encode import opened, talk


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def rows_of(encoded: EncodedDataset) -> list[dict[str, list[Any]]]:
    return [encoded[k] for k in range(len(encoded))]


def kept(directory: Path, made: dict[str, Any], weigh: bool = False) -> tuple[EncodedDataset, Ledger]:
    """Some rows, one drawn again, written to `directory`."""

    class Weighing(FakeTemplate):
        def encode_batch(self, rows: Any, errors: Any) -> list[dict[str, Any]]:
            found = super().encode_batch(rows, errors)
            found[-1]["loss_scale"] = [0.5 * (label >= 0) for label in found[-1]["labels"]]
            return found

    rows = [talk(k, "q" * k, "a" * (k % 3 + 1)) for k in range(1, 10)]
    rows.append(rows[2])
    rows.append(talk(99, "q" * 60))
    ledger = opened(rows)
    template = Weighing(max_length=40) if weigh else FakeTemplate(max_length=40)
    with storage.staged_directory(directory, cache.facts(made)) as stage:
        keep = cache.Writer(cache.blocks_file(stage, "train"))
        encoded = encode(rows[:-1] if weigh else rows, template, ledger, keep=keep, batch_size=4)
        cache.finish(stage, cache.Kept({"train": encoded}, ledger))
    return encoded, ledger


@pytest.mark.parametrize("weigh", [False, True])
def test_what_is_kept_comes_back_with_its_account(tmp_path: Path, weigh: bool) -> None:
    encoded, ledger = kept(tmp_path / "kept", {"n": 1}, weigh)
    found = cache.read(tmp_path / "kept")
    train = found.parts["train"]
    assert rows_of(train) == rows_of(encoded)
    assert (train.lengths, train.num_supervised) == (encoded.lengths, encoded.num_supervised)
    assert list(found.parts) == ["train"]
    assert found.ledger.to_json() == ledger.to_json()
    assert found.ledger.balanced
    assert ("loss_scale" in train[0]) == weigh
    if weigh:
        scales = [sorted({*row["loss_scale"]}) for row in rows_of(train)]
        assert [0.0, 0.5] in scales
        assert [0.0, 1.0] in scales
    else:
        assert found.ledger.dropped["longer than 40 tokens"] == ["x.jsonl:99"]


def test_arrays_lie_in_the_file(tmp_path: Path) -> None:
    kept(tmp_path / "kept", {})
    block = cache.read(tmp_path / "kept").parts["train"].rows.blocks[0]
    assert not block.columns["input_ids"].flags.owndata
    assert not block.columns["input_ids"].flags.writeable


def test_the_place_follows_what_rows_are_made_of() -> None:
    assert cache.place_of({"a": 1, "b": 2}) == cache.place_of({"b": 2, "a": 1}) != cache.place_of({"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("home", "xdg", "expected"),
    [("/h", "/x", "/h/swift/rows"), ("", "/x", "/x/swift/rows"), ("", "", "~/.cache/swift/rows")],
)
def test_where_the_cache_is(home: str, xdg: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", home)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert cache.cache_directory() == Path(expected).expanduser()


@pytest.mark.parametrize("name", ["train.arrow", "train-order.npy", "ledger.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_what_is_damaged_is_never_used(name: str, harm: str) -> None:
    made = {"n": 2}
    place = cache.place_of(made)
    kept(place, made)
    assert cache.find(made) == place
    path = place / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "changed": lambda: path.write_bytes(data),
        "cut": lambda: path.write_bytes(data[:-1]),
        "gone": path.unlink,
    }[harm]()
    with pytest.raises(DataError, match="is damaged"):
        cache.read(place)
    assert cache.find(made) is None
    assert not place.exists()


def killed(work: Callable[[], object]) -> None:
    """Do something in a process of its own, which is killed on the way."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


MOMENTS: dict[str, tuple[Any, str]] = {
    "while rows are encoded": (pa.ipc.RecordBatchFileWriter, "write_batch"),
    "before the account": (storage, "write_json"),
    "before the manifest": (storage, "_sealed"),
    "before it has its name": (Path, "rename"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_leaves_nothing_half_valid(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"n": 5}
    place = cache.place_of(made)

    def work() -> None:
        owner, name = MOMENTS[moment]
        monkeypatch.setattr(owner, name, die)
        kept(place, made)

    killed(work)
    assert len(list(cache.cache_directory().iterdir())) == 1  # the stage it was at work in
    assert cache.find(made) is None
    assert not cache.is_kept(place)
    encoded, _ = kept(place, made)
    cache.tidy()
    assert cache.find(made) == place
    assert rows_of(cache.read(place).parts["train"]) == rows_of(encoded)
    assert list(cache.cache_directory().iterdir()) == [place]


def test_a_run_that_is_killed_while_it_replaces_leaves_what_was_there(tmp_path: Path) -> None:
    kept(tmp_path / "ready", {"n": 1})
    rename, calls = Path.rename, 0

    def second(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        return rename(self, target) if calls == 1 else die()  # type: ignore[return-value]

    def work() -> None:
        Path.rename = second  # type: ignore[method-assign]
        kept(tmp_path / "ready", {"n": 2})

    killed(work)
    storage.sweep(tmp_path)
    assert cache.made_of(tmp_path / "ready") == {"n": 1}
    assert not storage.verify(tmp_path / "ready")
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_another_thing_under_the_same_name_is_not_taken() -> None:
    made = {"n": 3}
    kept(cache.place_of(made), {"n": 4})
    assert cache.find(made) is None


def test_what_killed_runs_left_is_swept_and_the_oldest_goes(tmp_path: Path) -> None:
    places = []
    for n in range(4):
        places.append(cache.place_of({"n": n}))
        kept(places[-1], {"n": n})
        os.utime(places[-1], (n, n))
    left = cache.cache_directory() / f"{storage.STAGE}abc-999999999"
    left.mkdir()
    cache.tidy(keep=2)
    assert not left.exists()
    assert [place.exists() for place in places] == [False, False, True, True]


def test_a_later_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FORMAT", 99)
    kept(tmp_path / "kept", {})
    monkeypatch.undo()
    assert cache.is_kept(tmp_path / "kept")
    with pytest.raises(DataError, match="format"):
        cache.made_of(tmp_path / "kept")
    assert not cache.is_kept(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "kept" / "train-order.npy"), [0, 1, 2, 3, 4, 5, 6, 7, 8, 2])


def test_a_hub_set_is_kept_by_its_state(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    state: list[str | None] = ["one"]
    fetched: list[str] = []

    def fetch(hub_id: str, *_: Any, **__: Any) -> Any:
        fetched.append(hub_id)
        return iter([{"query": "q", "response": "a"}] * 3)

    monkeypatch.setattr(hub, "dataset_state", lambda *_: state[0])
    monkeypatch.setattr(hub, "fetch_dataset", fetch)
    template = get_template("chatml", tokenizer)
    args = SftArguments(dataset=["HF::some/set"], dataset_test_ratio=0)
    rows = [len(read_data(args, template).train.lengths) for _ in range(2)]  # type: ignore[union-attr]
    assert (rows, fetched) == ([3, 3], ["some/set"])
    state[0] = "two"
    read_data(args, template)
    assert len(fetched) == 2
    state[0] = None  # the hub does not say
    for _ in range(2):
        read_data(args, template)
    assert len(fetched) == 4

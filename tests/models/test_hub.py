"""Both hubs' libraries are replaced where we call them; no test asks a network."""

from __future__ import annotations

import errno
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
import requests
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, Response
from modelscope_hub.errors import NetworkError, NotExistError, StorageError

from swift import hub
from swift.errors import DataError, DiskError, NotFoundError, TemporaryError

modelscope_library = importlib.import_module("modelscope.hub.snapshot_download")
HTTP = importlib.import_module(Response.__module__.partition(".")[0])  # the httpx it was built with
MISSING = RepositoryNotFoundError("404", response=Response(404, request=HTTP.Request("GET", "https://hub")))


@pytest.fixture(params=["ModelScope", "Hugging Face"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """One hub, chosen by USE_HF: `files` on it, `calls` it got, `error` that it raises."""
    hub_name = request.param
    state = SimpleNamespace(name=hub_name, files={"config.json"}, calls=[], error=None, directory=tmp_path)

    def snapshot_download(hub_id, revision=None, local_files_only=False, **ignore):
        patterns = next(iter(ignore.values()), [])
        state.calls.append((hub_id, revision, local_files_only, tuple(patterns)))
        if state.error:
            raise state.error
        if not local_files_only:
            for name in state.files:
                if not any(Path(name).match(pattern) for pattern in patterns):
                    (tmp_path / name).touch()
        elif not any(tmp_path.iterdir()):
            raise LocalEntryNotFoundError("none") if hub_name == "Hugging Face" else NotExistError("none")
        return str(tmp_path)

    monkeypatch.setenv("USE_HF", "1" if hub_name == "Hugging Face" else "0")
    library = huggingface_hub if hub_name == "Hugging Face" else modelscope_library
    other = modelscope_library if hub_name == "Hugging Face" else huggingface_hub
    monkeypatch.setattr(library, "snapshot_download", snapshot_download)
    monkeypatch.setattr(other, "snapshot_download", lambda *_, **__: pytest.fail("the other hub was asked"))
    return state


@pytest.mark.parametrize(
    ("value", "said"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False), ("no", False)]
)
def test_use_hf(value: str, said: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("USE_HF", value)
    assert hub.use_hf() is said


def test_modelscope_is_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("USE_HF", raising=False)
    assert not hub.use_hf()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_small_files_first(fake: SimpleNamespace):
    fake.files |= {"model.safetensors", "pytorch_model.bin", "model.gguf"}
    assert hub.fetch_model("a/b", "v1", weights=False) == fake.directory
    assert names(fake.directory) == {"config.json"}
    assert fake.calls[0][:3] == ("a/b", "v1", False)


def test_safetensors_before_older_weights(fake: SimpleNamespace):
    fake.files |= {"model.safetensors", "pytorch_model.bin", "consolidated.safetensors"}
    hub.fetch_model("a/b")
    assert names(fake.directory) == {"config.json", "model.safetensors"}
    assert len(fake.calls) == 1


def test_older_weights_where_there_is_nothing_else(fake: SimpleNamespace):
    fake.files |= {"pytorch_model.bin", "model.onnx"}
    hub.fetch_model("a/b")
    assert names(fake.directory) == {"config.json", "pytorch_model.bin"}


def test_a_download_that_is_there_needs_no_hub(fake: SimpleNamespace):
    fake.files.add("model.safetensors")
    hub.fetch_model("a/b")
    fake.calls.clear()
    hub.fetch_model("a/b", check_latest=False)
    assert [call[2] for call in fake.calls] == [True]


def test_what_is_not_there_is_fetched_after_all(fake: SimpleNamespace):
    fake.files.add("model.safetensors")
    hub.fetch_model("a/b", weights=False, check_latest=False)
    assert [call[2] for call in fake.calls] == [True, False]
    hub.fetch_model("a/b", check_latest=False)
    assert "model.safetensors" in names(fake.directory)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fake", ["Hugging Face"], indirect=True)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MISSING, NotFoundError),
        (ValueError("bad id"), NotFoundError),
        (LocalEntryNotFoundError("offline"), TemporaryError),
        (HTTPError("refused"), TemporaryError),
        (ConnectionResetError("cut"), TemporaryError),
        (FULL, DiskError),
        (RuntimeError("scripts are not supported"), DataError),
    ],
    ids=repr,
)
def test_errors_of_hugging_face_are_said_in_ours(fake: SimpleNamespace, error: Exception, kind: type[Exception]):
    fake.error = error
    with pytest.raises(kind, match="a/b"):
        hub.fetch_model("a/b")


@pytest.mark.parametrize("fake", ["ModelScope"], indirect=True)
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotExistError("gone"), NotFoundError),
        (requests.HTTPError("404"), NotFoundError),
        (NetworkError("refused"), TemporaryError),
        (StorageError("refused"), TemporaryError),
        (requests.ConnectionError("refused"), TemporaryError),
        (FULL, DiskError),
    ],
    ids=repr,
)
def test_errors_of_modelscope_are_said_in_ours(fake: SimpleNamespace, error: Exception, kind: type[Exception]):
    fake.error = error
    with pytest.raises(kind, match="a/b"):
        hub.fetch_model("a/b")


ROWS = [{"query": "a", "response": "b"}, {"query": "c", "response": "d"}]


@pytest.fixture
def dataset_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ModelScope gives for any data set id."""
    directory = tmp_path / "data"
    directory.mkdir()
    monkeypatch.setenv("USE_HF", "0")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(modelscope_library, "dataset_snapshot_download", lambda hub_id, revision=None: str(directory))
    return directory


def test_rows_of_modelscope(dataset_dir: Path):
    (dataset_dir / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert list(hub.fetch_dataset("a/b")) == ROWS
    assert list(hub.fetch_dataset("a/b", "default")) == ROWS


def test_rows_of_a_declared_file(dataset_dir: Path):
    (dataset_dir / "b.json").write_text('{"default": {"train": {"meta": "rows.csv"}, "test": {"meta": "../x.csv"}}}')
    (dataset_dir / "a.json").write_text("[1]")
    (dataset_dir / "0.json").write_text("[" + " " * (1 << 20) + "]")
    (dataset_dir / "rows.csv").write_text("query,response\na,b\nc,d\n")
    (dataset_dir.parent / "x.csv").write_text("query,response\nsecret,secret\n")
    assert list(hub.fetch_dataset("a/b")) == ROWS
    assert hub._declared_file(dataset_dir, "default", "test") is None


def test_an_unknown_split_is_not_found(dataset_dir: Path):
    (dataset_dir / "train.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(NotFoundError, match=r"ModelScope gives no a/b.*test"):
        hub.fetch_dataset("a/b", split="test")


def test_rows_of_hugging_face(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load_dataset(path, name, **options):
        asked.append((path, name, options))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(hub.fetch_dataset("a/b", "part", "test", use_hf=True, revision="v1")) == ROWS
    assert asked == [("a/b", "part", {"split": "test", "revision": "v1"})]


def test_unreadable_rows_are_data_errors(monkeypatch: pytest.MonkeyPatch):
    def load_dataset(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetGenerationError("a cut table")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="a cut table"):
        hub.fetch_dataset("a/b", use_hf=True)


def test_the_state_of_a_data_set_is_its_files(dataset_dir: Path):
    (dataset_dir / "train.jsonl").write_text(json.dumps(ROWS[0]))
    before = hub.dataset_state("a/b", False)
    assert before == hub.dataset_state("a/b", False)
    (dataset_dir / "train.jsonl").write_text(json.dumps(ROWS[1]))
    assert hub.dataset_state("a/b", False) != before


def test_the_state_of_a_data_set_is_its_commit(monkeypatch: pytest.MonkeyPatch):
    def info(self: huggingface_hub.HfApi, hub_id: str, timeout: float) -> SimpleNamespace:
        if hub_id == "no/way":
            raise LocalEntryNotFoundError("offline")
        return SimpleNamespace(sha=f"commit of {hub_id}")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    assert hub.dataset_state("a/b", True) == "commit of a/b"
    assert hub.dataset_state("no/way", True) is None


def test_a_network_that_fails_is_said_in_few_words(fake: SimpleNamespace):
    why = "Max retries exceeded with url: /x (Caused by NameResolutionError('Failed to resolve'))"
    fake.error = requests.ConnectionError(f"HTTPSConnectionPool(host='hub', port=443): {why}")
    with pytest.raises(TemporaryError) as caught:
        hub.fetch_model("a/b")
    assert caught.value.what == f"{fake.name} did not answer for a/b: no connection from here"
    fake.error = requests.ConnectionError("busy " * 100)
    with pytest.raises(TemporaryError) as caught:
        hub.fetch_model("a/b")
    assert len(caught.value.what) < 260

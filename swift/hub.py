"""Downloads from ModelScope, or from Hugging Face with USE_HF=1, through the hubs' own libraries.

Both libraries are imported only when something is fetched: a local path never touches the network. Of a model's files
only those that transformers reads are fetched, safetensors before older weights.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from swift.errors import DataError, DiskError, NotFoundError, SwiftError, TemporaryError, brief

OLD_WEIGHTS = ["*.bin", "*.pt", "*.pth", "*.ckpt"]
WEIGHTS = ["*.safetensors", *OLD_WEIGHTS]
OTHER_FORMATS = ["*.gguf", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.nemo"]
OTHER_FORMATS += ["consolidated*", "original/*", "onnx/*", "openvino/*", "coreml/*"]
READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}


def use_hf() -> bool:
    """Whether USE_HF chooses Hugging Face instead of ModelScope."""
    return os.environ.get("USE_HF", "").strip().lower() in ("1", "true", "yes", "on")


def name() -> str:
    """The hub that is chosen."""
    return "Hugging Face" if use_hf() else "ModelScope"


def is_path(name: str | Path) -> bool:
    """Whether this can only be a path here, there or not, and no "owner/name" or "name" of a hub."""
    path = Path(name).expanduser()
    return path.exists() or path.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1


def fetch_model(hub_id: str, revision: str | None = None, *, weights: bool = True, check_latest: bool = True) -> Path:
    """Directory of a model's files, downloaded where they are not there yet.

    Args:
        hub_id: "owner/name".
        revision: branch, tag or commit; None for the newest.
        weights: False fetches only the small files.
        check_latest: False uses files already downloaded without asking the hub.

    Raises:
        NotFoundError: the hub has no such model, or does not show it without a login.
        TemporaryError: the hub did not answer.
    """
    if not check_latest:
        cached = _cached_model(hub_id, revision)
        if cached and (not weights or _has(cached, WEIGHTS)):
            return cached
    unwanted = [*OTHER_FORMATS, *(OLD_WEIGHTS if weights else WEIGHTS)]
    path = _snapshot(hub_id, revision, ignore_patterns=unwanted)
    if weights and not _has(path, ["*.safetensors"]):
        path = _snapshot(hub_id, revision, ignore_patterns=OTHER_FORMATS)
    return path


def fetch_dataset(
    hub_id: str,
    subset: str | None = None,
    split: str = "train",
    use_hf: bool | None = None,
    revision: str | None = None,
    *,
    streaming: bool = False,
) -> Iterator[dict[str, Any]]:
    """The rows of one split of a hub's data set, each as the hub has it.

    Args:
        hub_id: "owner/name".
        subset: name of one of its parts; None or "default" for the main one.
        split: "train", "test", …, also "train[:100]".
        use_hf: which hub; None as `use_hf()` says.
        revision: branch, tag or commit; None for the newest.
        streaming: fetch rows from Hugging Face as they are read; ModelScope's files are fetched first.

    Raises:
        NotFoundError: there is no such data set, subset or split.
        DataError: its files cannot be read as a table.
        TemporaryError: the hub did not answer.
    """
    subset = None if subset == "default" else subset
    lazy: dict[str, Any] = {"streaming": True} if streaming else {}
    if _chooses_hf(use_hf):
        return _from_hugging_face(hub_id, lambda: _rows(hub_id, subset, split, revision=revision, **lazy))
    directory = Path(_from_modelscope(hub_id, lambda hub: hub.dataset_snapshot_download(hub_id, revision=revision)))
    table = _declared_file(directory, subset or "default", split)
    if table is None:
        return _from_hugging_face(hub_id, lambda: _rows(str(directory), subset, split, **lazy), "ModelScope")
    return _from_hugging_face(
        hub_id, lambda: _rows(READERS[table.suffix], None, "train", data_files=str(table), **lazy), "ModelScope"
    )


def dataset_state(hub_id: str, use_hf: bool | None = None) -> str | None:
    """What tells one state of a hub's data set from another; None where the hub does not say.

    Of Hugging Face that is the commit, of ModelScope the content of the files, which are fetched for it.

    Raises:
        NotFoundError: ModelScope has no such data set.
        TemporaryError: ModelScope did not answer.
    """
    if _chooses_hf(use_hf):
        import huggingface_hub

        try:
            return _from_hugging_face(hub_id, lambda: huggingface_hub.HfApi().dataset_info(hub_id, timeout=10).sha)
        except (NotFoundError, TemporaryError):  # what was downloaded before can be read all the same
            return None
    directory = Path(_from_modelscope(hub_id, lambda hub: hub.dataset_snapshot_download(hub_id)))
    whole = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        whole.update(str(path.relative_to(directory)).encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _chooses_hf(said: bool | None) -> bool:
    return use_hf() if said is None else said


def _rows(source: str, subset: str | None, split: str, **options: Any) -> Iterator[dict[str, Any]]:
    import datasets

    return iter(datasets.load_dataset(source, subset, split=split, **options))


def _declared_file(directory: Path, subset: str, split: str) -> Path | None:
    """The file that a ModelScope structure file `{subset: {split: {"meta": file}}}` names for one split, if any."""
    for path in sorted(directory.glob("*.json")):
        if path.stat().st_size > 1 << 20:
            continue  # rows, not structure
        try:
            structure = json.loads(path.read_text(encoding="utf-8"))
            name = structure[subset][split]["meta"]
        except (ValueError, KeyError, TypeError):
            continue
        table = directory / str(name)
        if table.suffix in READERS and table.is_file() and table.resolve().is_relative_to(directory.resolve()):
            return table
    return None


def _has(directory: Path, patterns: list[str]) -> bool:
    return any(next(directory.glob(pattern), None) for pattern in patterns)


def _snapshot(hub_id: str, revision: str | None, **options: Any) -> Path:
    """Directory of a model's files; `options` are those that both hubs' `snapshot_download` take."""
    if use_hf():
        import huggingface_hub

        return Path(
            _from_hugging_face(hub_id, lambda: huggingface_hub.snapshot_download(hub_id, revision=revision, **options))
        )
    return Path(_from_modelscope(hub_id, lambda hub: hub.snapshot_download(hub_id, revision=revision, **options)))


def _cached_model(hub_id: str, revision: str | None) -> Path | None:
    try:
        return _snapshot(hub_id, revision, local_files_only=True)
    except (NotFoundError, TemporaryError):
        return None


def _from_hugging_face(hub_id: str, fetch: Callable[[], Any], hub: str = "Hugging Face") -> Any:
    """What `fetch` gives, the errors of Hugging Face's libraries said in ours."""
    import huggingface_hub.errors as hf
    from datasets.exceptions import DatasetsError

    try:
        return fetch()
    except (hf.OfflineModeIsEnabled, hf.LocalEntryNotFoundError) as error:
        raise _no_answer(hub_id, hub, error) from error
    except (hf.RepositoryNotFoundError, hf.RevisionNotFoundError, FileNotFoundError, ValueError) as error:
        raise _not_found(hub_id, hub, error) from error
    except OSError as error:
        raise _disk_or_network(hub_id, hub, error) from error
    except hf.HTTPError as error:  # type: ignore[attr-defined]  # of the httpx it was built with
        raise _no_answer(hub_id, hub, error) from error
    except (DatasetsError, RuntimeError) as error:
        raise DataError("DATA-01", f"{hub_id} cannot be read: {brief(error)}") from error


def _from_modelscope(hub_id: str, fetch: Callable[[Any], Any]) -> Any:
    """What `fetch` gives when handed the library, its errors said in ours."""
    library = importlib.import_module("modelscope.hub.snapshot_download")  # its package has a function of that name
    from modelscope_hub.errors import CacheError, HubError, NotExistError
    from requests.exceptions import HTTPError

    try:
        return fetch(library)
    except (NotExistError, CacheError, ValueError, HTTPError) as error:
        raise _not_found(hub_id, "ModelScope", error) from error
    except OSError as error:
        raise _disk_or_network(hub_id, "ModelScope", error) from error
    except HubError as error:
        raise _no_answer(hub_id, "ModelScope", error) from error


NO_CONNECTION = ("NameResolutionError", "NewConnectionError", "ConnectTimeout", "Connection failed", "ProxyError")


def _not_found(hub_id: str, hub: str, error: Exception) -> NotFoundError:
    other = "USE_HF=1 asks Hugging Face instead" if hub == "ModelScope" else "USE_HF=0 asks ModelScope instead"
    return NotFoundError(
        "FOUND-02",
        f"{hub} gives no {hub_id}: {brief(error)}",
        why="no such repository, revision or split, or one that needs a login",
        fix=f"check the id, or name a local directory; {other}",
    )


def _no_answer(hub_id: str, hub: str, error: Exception) -> TemporaryError:
    """The error that a hub is not reached; of the many words of a network's failure the meaning is left."""
    said = brief(error)
    if any(word in said for word in NO_CONNECTION):
        said = "no connection from here"
    return TemporaryError(
        "FOUND-02",
        f"{hub} did not answer for {hub_id}: {said if len(said) <= 200 else f'{said[:199]}…'}",
        fix="try again with a connection, or name a file or directory that is here; "
        "--check_model_is_latest false uses a model that was downloaded before",
    )


def _disk_or_network(hub_id: str, hub: str, error: OSError) -> SwiftError:
    if error.errno == errno.ENOSPC:
        return DiskError("DISK-01", f"No space left on device while downloading {hub_id}", why=brief(error))
    return _no_answer(hub_id, hub, error)

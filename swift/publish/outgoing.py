"""What of a directory leaves: which files, and what those that we wrote say where the paths of this machine stood."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from swift import storage
from swift.errors import DataError, NotFoundError
from swift.publish.contents import CARD, files_of_model
from swift.publish.secrets import HOME

STATE = ("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", "global_step*", "shards/*")
STATE += ("prompt_encoder.safetensors", "adalora.safetensors", "data_state.json", "zero_to_fp32.py", "latest")
STATE += ("answers-*.pt",)  # of several steps on the same answers
NEVER = ("training_args*", ".*", "*/.*", "*.log", "*.lock.json", "*.pid", "runs/*", "images/*", "checkpoint-*/*")
NEVER += ("infer_result/*", "*.pkl", "*.pickle", "logging.jsonl", "data_report.json", storage.MANIFEST)
# What a manifest does not list leaves too when it is called so: reports come after the model.
BESIDES = (CARD, "LICENSE*", "NOTICE*", "*_report.json", "Modelfile", "chat_template.jinja")
OURS = ("sft_args.json", "configuration.json", "adapter_config.json", "trainer_state.json", "base_fingerprint.json")
OURS += ("*_report.json", "config.json", "tokenizer_config.json", storage.MANIFEST)
DIRECTORIES = re.compile(r"(?<![\w/])/(?:[^\s#:,;=\"'/]+/)+")
HF_CACHE = re.compile(r"/models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/[^/]+/?$")
MS_CACHE = re.compile(r"/modelscope/hub/(?:models/)?(?P<owner>[^/]+)/(?P<name>[^/]+)/?$")
LONGEST_PATH = 1024
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)  # file systems


@dataclass(frozen=True)
class Outgoing:
    """What will leave of a directory.

    Attributes:
        stage: a directory with exactly the files that leave, links where they are as they were.
        names: the files, as the repository will have them.
        left: the files of the directory that stay here.
    """

    stage: Path
    names: list[str]
    left: list[str]

    @property
    def size_bytes(self) -> int:
        """How much they take."""
        return sum((self.stage / name).stat().st_size for name in self.names)


def gather(
    directory: Path,
    stage: Path,
    *,
    with_state: bool = False,
    card: str | None = None,
    pictures: Mapping[str, Path] | None = None,
    without: Collection[str] = (),
) -> Outgoing:
    """Lay what leaves of `directory` into the empty directory `stage`.

    Files of a directory with a manifest leave when it lists them and they are as they were written. JSON of ours loses
    the directories of this machine, and the manifest says what the files are then.

    Args:
        directory: a checkpoint or model.
        stage: an empty directory.
        with_state: whether what resuming needs leaves too.
        card: the model card; None leaves what the directory has.
        pictures: further files, by the name that they get.
        without: files that stay, whatever they are.

    Raises:
        NotFoundError: there is no such directory.
        DataError: it is damaged, or holds nothing that a hub is for.
    """
    if not directory.is_dir():
        raise NotFoundError("FOUND-01", f"{directory} is not a directory", fix="name a checkpoint or a model")
    manifest = _manifest_of(directory)
    present = [str(path.relative_to(directory)) for path in files_below(directory)]
    listed = set(manifest["files"]) if manifest else None
    of_model = set() if manifest else files_of_model(directory, present)
    names = [n for n in present if n not in without and _leaves(n, listed, of_model, with_state)]
    if not any(n.endswith((".safetensors", ".bin", ".gguf")) for n in names):
        what = f"{directory} holds no weights to publish"
        raise DataError("MODEL-01", what, fix="name a checkpoint-<step>, or what swift export wrote")
    for name in names:
        _lay(directory / name, stage / name)
    for name, path in (pictures or {}).items():
        (stage / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path.resolve(), stage / name)
    if card is not None:
        (stage / CARD).unlink(missing_ok=True)
        storage.write_text(stage / CARD, card)
    further = [*(pictures or {}), *([CARD] if card is not None else [])]
    names += [name for name in further if name not in names]
    if manifest:
        _seal(manifest, stage, names)
        names.append(storage.MANIFEST)
    left = [name for name in present if name not in names]
    return Outgoing(stage, names, left)


def _manifest_of(directory: Path) -> dict[str, Any] | None:
    if not (directory / storage.MANIFEST).is_file():
        return None
    faults = storage.verify(directory)
    if faults:
        what = f"{directory} is damaged: {'; '.join(faults[:3])}"
        raise DataError("CKPT-01", what, fix="take another checkpoint, or write it again")
    return storage.read_manifest(directory)


def _leaves(name: str, listed: set[str] | None, of_model: set[str], with_state: bool) -> bool:
    if _is(name, STATE):
        return with_state and (listed is None or name in listed)
    if listed is not None:
        return (name in listed or _is(name, BESIDES)) and not _is(name, NEVER)
    return name in of_model and not _is(name, NEVER)


def _is(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(Path(name).name, pattern) for pattern in patterns)


def _lay(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is(source.name, OURS):
        text = source.read_text(encoding="utf-8")
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        without = _without_directories(told)
        if without != told:
            storage.write_json(target, without)
            return
    os.symlink(source.resolve(), target)


def _seal(manifest: dict[str, Any], stage: Path, names: list[str]) -> None:
    """Write the manifest of what leaves, with the digests that are known of what is as it was."""
    listed = manifest.pop("files")
    known = {n: listed[n]["sha256"] for n in names if n in listed and (stage / n).is_symlink()}
    facts = _without_directories(manifest)
    storage.write_manifest(stage, {n: stage / n for n in names if n in listed}, facts, known)


def _without_directories(value: Any) -> Any:
    """JSON with `/home/me/models/base` as `base`, and a model of a hub's cache as its id."""
    if isinstance(value, dict):
        return {_without_directories(k): _without_directories(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_directories(item) for item in value]
    return portable(value) if isinstance(value, str) else value


def portable(text: str) -> str:
    """`text` without the directories of this machine; a hub's id where a directory is one of its cache."""
    if len(text) > LONGEST_PATH or "\n" in text or "/" not in text:
        return text
    if cached := hub_id(text):
        return cached
    if text.startswith("/") and text.count("/") > 1 and _is_of_here(str(Path(text).parent)):
        return Path(text).name
    return DIRECTORIES.sub(lambda match: "" if _is_of_here(match[0]) else match[0], text)


def _is_of_here(directory: str) -> bool:
    """Whether this is a directory, or one of a home that is gone."""
    return bool(HOME.match(f"{directory}/")) or Path(directory).is_dir()


def hub_id(path: str) -> str | None:
    """The `owner/name` that a directory of a hub's cache is of, None for any other."""
    match = HF_CACHE.search(path) or MS_CACHE.search(path)
    return f"{match['owner']}/{match['name'].replace('___', '.')}" if match else None


def links(source: Path, target: Path) -> None:
    """Make `target` a directory with the same files as `source`, which stay there when those of `source` go.

    Raises:
        OSError: they can neither be linked nor copied.
    """
    for path in files_below(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError as error:
            if error.errno not in WITHOUT_LINKS:
                raise
            shutil.copy2(path, place)


def files_below(directory: Path) -> Iterator[Path]:
    """The files of a directory and its folders, in order."""
    return (path for path in sorted(directory.rglob("*")) if path.is_file())

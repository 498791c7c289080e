"""From what the user names to a directory with a checked model: registered name, hub id or path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swift import hub
from swift.errors import NotFoundError, UsageError
from swift.log import get_logger
from swift.models import MODELS, ModelRecord, find_by_arch, find_by_hub_id
from swift.models.files import check_tokenizer, check_weights, has_vocabulary, read_config, weight_files
from swift.models.quantisation import check_packages, either_spelling, method_of
from swift.models.remote_code import check_remote_code, check_unchanged

logger = get_logger()
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """A model that was found and checked, not loaded.

    Args:
        name: its registered name, else the last part of the path or id.
        record: its row; None for an unregistered model.
        path: the directory of its files.
        config: its config.json.
        hub_id: where it was downloaded from; None for a local directory.
        revision: commit of the download where it is known, else what was asked for; None for the newest.
        code: its own Python files that may run, with their sha256; {} for a model that needs none.
    """

    name: str
    record: ModelRecord | None
    path: Path
    config: dict[str, Any]
    hub_id: str | None = None
    revision: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def trusted(self) -> bool:
        """Whether the model's own Python code is needed and may run."""
        return bool(self.code)

    @property
    def arch(self) -> str:
        """The model class named in config.json, "" when none is."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def targets(self) -> tuple[str, ...]:
        """Modules that LoRA adapts by default; () when this architecture is not known."""
        if self.record and self.arch in ("", self.record.arch):
            return self.record.targets
        row = find_by_arch(self.arch)
        return row.targets if row else ()

    @property
    def weight_bytes(self) -> int:
        """How much disk the files take that its weights are read from; 0 when they are not downloaded yet."""
        return sum(path.stat().st_size for path in weight_files(self.path) if path.is_file())

    def has_own_tokenizer(self, adapter: Path) -> bool:
        """Whether the directory of an adapter has a tokenizer that is taken; one that needs code is the base's."""
        return not self.trusted and adapter.resolve() != self.path and has_vocabulary(adapter)


def find_model(
    model_type: str | None,
    model_id_or_path: str | None,
    revision: str | None = None,
    *,
    download_weights: bool = False,
    check_latest: bool = True,
    trust_remote_code: bool = False,
) -> ModelSource:
    """The model that a registered name, a hub id or a directory means, with all checked that needs no loading.

    Args:
        model_type: a registered name, or None.
        model_id_or_path: a directory or hub id; None for the registered one.
        revision: branch, tag or commit; None for the newest. A directory has none.
        download_weights: fetch the weights too; `load_model` fetches them when they are missing.
        check_latest: False uses a download that is there without asking the hub.
        trust_remote_code: whether the user allows the model's own code.

    Raises:
        UsageError: nothing, something unknown or an adapter's checkpoint was named.
        NotFoundError: there is no such directory or hub id.
        DataError: files are missing or damaged, or it is not a text model.
        RefusedError: the model wants to run code that nobody allowed.
        MissingPackageError: its quantisation needs a package that is not installed.
    """
    record = MODELS[model_type] if model_type else None
    local = _local(model_id_or_path or (record.path if record else None))
    if local is not None:
        found = ModelSource(record.name if record else local.name, record, local, {})
    else:
        found = _download(record, model_id_or_path, revision, download_weights, check_latest)
    config = read_config(found.path)
    check_tokenizer(found.path)
    if local is not None or download_weights:
        check_weights(found.path)
    check_packages(method_of(config))
    revision = _commit(found)
    code = check_remote_code(found.path, config, trust_remote_code, revision)
    if code and found.record and found.record.requires:
        logger.warning(f"{found.name}: its own code was written for {' '.join(found.record.requires)}")
    return replace(found, config=config, code=code, revision=revision)


def with_weights(source: ModelSource) -> ModelSource:
    """The same model with its weights there; fetches them for a hub model. Raises as `find_model`."""
    if source.hub_id is not None:
        path = hub.fetch_model(source.hub_id, source.revision, weights=True, check_latest=False)
        source = replace(source, path=path)
    check_unchanged(source.path, source.code)
    check_weights(source.path)
    return source


def _local(said: str | None) -> Path | None:
    """The directory that `said` means, None when it is a hub id."""
    if said is None:
        return None
    path = either_spelling(Path(said).expanduser())
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise UsageError("USAGE-02", f"{said} is a file, not a model's directory", fix="name its directory")
    if not HUB_ID.fullmatch(said) or said[0] in "./~":
        if "/" not in said and "\\" not in said:
            near = difflib.get_close_matches(said, MODELS, 1)
            fix = f"--model_type {near[0]}" if near else "name a directory that is there, or owner/name on the hub"
            raise NotFoundError("FOUND-01", f"no directory and no hub id is called {said!r}", fix=fix)
        raise NotFoundError("FOUND-01", f"{said} is not a directory", fix="a hub id looks like owner/name")
    return None


def _download(
    record: ModelRecord | None, said: str | None, revision: str | None, weights: bool, check_latest: bool
) -> ModelSource:
    if record is None and said is None:
        raise UsageError("USAGE-03", "no model is named", fix="--model_id_or_path <directory or owner/name>")
    record = record or find_by_hub_id(str(said))
    hub_id = said
    if record and (said is None or find_by_hub_id(said) is record):
        hub_id = record.hf if hub.use_hf() else record.ms
        revision = revision or record.revision
    if hub_id is None:
        assert record
        raise NotFoundError(
            "FOUND-02", f"{record.name} is not on this hub", fix="switch hubs with USE_HF=1 or USE_HF=0"
        )
    path = hub.fetch_model(hub_id, revision, weights=weights, check_latest=check_latest)
    name = record.name if record else hub_id.rpartition("/")[2]
    return ModelSource(name, record, path, {}, hub_id, revision)


def _commit(source: ModelSource) -> str | None:
    """The commit of a download where the cache's folder is named after it, else what was asked for."""
    if source.hub_id and re.fullmatch(r"[0-9a-f]{40}", source.path.name):
        return source.path.name
    return source.revision

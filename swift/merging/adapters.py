"""Adapters as they lie on disk, PEFT's and ours, without PEFT: which parts belong to which weight of the base."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from swift.errors import DataError, NotFoundError
from swift.merging import tensors
from swift.merging.tensors import Stored
from swift.merging.weights import EMBEDDINGS
from swift.tuners import layout

PREFIX = "base_model.model."
IGNORED = {"ranknum"}  # of AdaLoRA, in older files
SHARED = ("vera_A", "vera_B")  # one for all layers
TOKENS = ("trainable_tokens_delta",)
# The parts of each of PEFT's methods that can be merged by rows of the weights, without the model.
PARTS = {
    "LORA": ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"),
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
    "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "LOKR": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    "IA3": ("ia3_l",),
    "VERA": ("vera_lambda_b", "vera_lambda_d"),
    "FOURIERFT": ("fourierft_spectrum",),
    "OFT": ("oft_R",),
    "BOFT": ("boft_R", "boft_s"),
    "TRAINABLE_TOKENS": (),
}
# What else a LoRA may be: its own arithmetic, or a base that is not the one on disk.
BEYOND = (
    "alora_invocation_tokens",
    "arrow_config",
    "velora_config",
    "kasa_config",
    "megatron_config",
    "monteclora_config",
)
OTHER_BASES = ("loftq", "corda", "lora_ga")
TABLES = "|".join(re.escape(name.removesuffix(".weight")) for name in EMBEDDINGS)
TABLE = re.compile(rf"(^|\.)({TABLES})(\.(token_adapter|base_layer))*\.weight$")
ADDS = {"LORA", "ADALORA", "LOHA", "LOKR", "VERA", "FOURIERFT", "TRAINABLE_TOKENS"}


@dataclass
class Adapter:
    """One adapter: what its file holds, sorted by what it belongs to.

    Args:
        name: of its folder, "default" at the root of a directory.
        folder: where it lies.
        config: its adapter_config.json.
        weight: by how much it counts where several are merged.
        modules: the parts by the path of their module, and by the parts' names: `lora_A`, `lora_B.bias`.
        whole: tensors of the base that were trained themselves, by their names in the model.
        tokens: rows of an embedding or head that were trained, by the module's path.
        shared: what all modules have in common.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    weight: float = 1.0
    modules: dict[str, dict[str, Stored]] = field(default_factory=dict)
    whole: dict[str, Stored] = field(default_factory=dict)
    tokens: dict[str, Stored] = field(default_factory=dict)
    shared: dict[str, Stored] = field(default_factory=dict)
    _loaded: tuple[str, dict[str, Tensor]] = ("", {})

    def values(self, path: str) -> dict[str, Tensor]:
        """The parts of the module at `path` in float32; those of the last one stay in memory.

        Raises:
            DataError: a number is not finite.
        """
        if self._loaded[0] != path:
            self._loaded = path, {part: self._finite(f"{path}.{part}", one) for part, one in self.modules[path].items()}
        return dict(self._loaded[1])

    def _finite(self, name: str, stored: Stored) -> Tensor:
        values = tensors.whole(stored)
        if not values.isfinite().all():
            fix = "take an earlier checkpoint: this one was saved after training had failed"
            raise DataError("CKPT-01", f"{self.folder} holds numbers that are not finite: {name}", fix=fix)
        return values

    @property
    def kind(self) -> str:
        """Its method: a key of `PARTS` if it is one that can be merged by rows."""
        return kind_of(self.config)

    def names_rows(self, path: str) -> bool:
        """Whether the config says which rows of the module at `path` were trained."""
        return self._said_rows(path) is not None

    def _said_rows(self, path: str) -> Any:
        said = self.config.get("trainable_token_indices") or self.config.get("token_indices")
        if not isinstance(said, Mapping):
            return said
        return next((rows for name, rows in said.items() if path == name or path.endswith(f".{name}")), None)

    def token_rows(self, path: str) -> list[int]:
        """Which rows of the module at `path` were trained. Raises DataError when the config does not say."""
        said = self._said_rows(path) or []
        if not isinstance(said, list) or len(said) != self.tokens[path].shape[0]:
            what = f"{self.folder} has {self.tokens[path].shape[0]} rows of {path}, and its config names {len(said)}"
            raise DataError("CKPT-02", what, fix=layout.AGAIN)
        return [int(row) for row in said]


def kind_of(config: Mapping[str, Any]) -> str:
    """The method in an adapter_config.json, in capitals."""
    return str(config.get("peft_type") or config.get("swift_type") or "").upper()


def adds(config: Mapping[str, Any]) -> bool:
    """Whether an adapter adds something to the weights, so that the order of several does not matter."""
    return kind_of(config) in ADDS and not config.get("use_dora")


def why_not(config: Mapping[str, Any]) -> str | None:
    """Why an adapter cannot be merged by rows of the weights, None when it can."""
    kind = kind_of(config)
    if kind not in PARTS:
        return f"{kind or 'an adapter without peft_type'} needs the model"
    beyond = next((name for name in BEYOND if config.get(name)), None)
    start = config.get("init_lora_weights")
    if beyond or (isinstance(start, str) and start.lower().startswith(OTHER_BASES)):
        return f"{beyond or start} needs the model"
    if config.get("enable_lora") and not config.get("use_merged_linear"):
        return "enable_lora needs the model"
    return None


def read(folder: Path, name: str, weight: float = 1.0) -> Adapter:
    """The adapter in a folder, nothing of it loaded yet.

    Raises:
        NotFoundError: it has no file of weights.
        DataError: the file is damaged.
    """
    adapter = Adapter(name, folder, layout.read_json(folder / layout.CONFIG_FILE), weight)
    found = _tensors_of(folder)
    ours = "swift_type" in adapter.config
    names = dict.fromkeys((name, folder.name, "default")) if ours else ("default",)
    for key, stored in found.items():
        _sort(adapter, key.removeprefix(PREFIX), stored, names)
    return adapter


def _tensors_of(folder: Path) -> dict[str, Stored]:
    safe, plain = folder / layout.SAFE_WEIGHTS_FILE, folder / layout.WEIGHTS_FILE
    file = safe if safe.is_file() else plain
    if not file.is_file():
        raise NotFoundError("FOUND-01", f"{folder} has no {safe.name} or {plain.name}", fix=layout.AGAIN)
    try:
        return tensors.read(file)
    except DataError as error:
        raise DataError("CKPT-01", error.what, why=error.why, fix=layout.AGAIN) from error


def table_rows(folder: Path) -> int | None:
    """How many rows the table of tokens has that lies beside an adapter, as PEFT saves a resized one; None without one.

    Raises:
        DataError: the file of weights is damaged.
    """
    if not any((folder / name).is_file() for name in (layout.SAFE_WEIGHTS_FILE, layout.WEIGHTS_FILE)):
        return None  # what has nothing to learn, such as NEFTune
    return next((stored.shape[0] for key, stored in _tensors_of(folder).items() if TABLE.search(key)), None)


def read_whole(folder: Path, weight: float = 1.0) -> Adapter:
    """What was trained of the base itself, beside adapters: a folder of its tensors."""
    adapter = Adapter(folder.name, folder, {}, weight)
    safe, plain = folder / layout.SAFE_WEIGHTS_FILE, folder / layout.WEIGHTS_FILE
    adapter.whole = tensors.read(safe if safe.is_file() else plain)
    return adapter


def _sort(adapter: Adapter, key: str, stored: Stored, names: Iterable[str]) -> None:
    """Put a tensor of an adapter's file where it belongs."""
    if ".original_module." in key:  # as it was before the training
        return
    named = "|".join(map(re.escape, names))
    parts = "|".join((*PARTS[adapter.kind], *TOKENS, *IGNORED))
    if key.removeprefix("base_model.").split(".")[0] in SHARED:
        adapter.shared[key.removeprefix("base_model.").split(".")[0]] = stored
        return
    match = re.fullmatch(rf"(?P<path>.+?)\.(?P<part>{parts})(\.({named}))?(\.(?P<leaf>weight|bias|blocks))?", key)
    if match is None:
        plain = re.sub(rf"\.modules_to_save(\.({named}))?(?=\.)", "", key)
        adapter.whole[re.sub(r"(\.(token_adapter|base_layer))+(?=\.)", "", plain)] = stored
    elif match["part"] in TOKENS:
        adapter.tokens[re.sub(r"\.(token_adapter|base_layer)(?=\.|$)", "", match["path"])] = stored
    elif match["part"] not in IGNORED:
        leaf = "" if match["leaf"] in (None, "weight") else f".{match['leaf']}"
        adapter.modules.setdefault(match["path"], {})[match["part"] + leaf] = stored


def pattern_value(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first of PEFT's patterns that `path` ends with, `default` where none does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def is_target(config: Mapping[str, Any], path: str) -> bool:
    """Whether a config's `target_modules` name the module at `path`."""
    said = config.get("target_modules")
    if isinstance(said, str):
        return re.fullmatch(said, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in said or ())

"""What a run, a merge, a quantisation wrote down about a model: the facts of its card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from swift import storage
from swift.publish.outgoing import CARD, hub_id, portable

UNFILLED = "[More Information Needed]"  # PEFT's card, which nobody wrote
STUB = re.compile(  # nor that of SwiftModel.save_pretrained, `swift.tuners.files.write_card`
    r"---\nlibrary_name: swift\n(base_model: .*\n)?---\n\n# Adapters of .*\n\n(- `.*`: .*\n)*\n"
    r'```python\nfrom swift import Swift\n\nmodel = Swift\.from_pretrained\(model, "this directory"\)\n```\n'
)
FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.S)
LARGEST = 64 << 20


@dataclass(frozen=True)
class Told:
    """What is known of a model that is published; what is not known is empty.

    Attributes:
        kind: "adapter", "finetune", "merge", "quantized" or "gguf".
        base: id of the base model on a hub, or the name of its directory.
        options: those of the training.
        data: the account of rows, as `data_report.json` has it.
        history: log lines.
        best: the best evaluation loss and the checkpoint that had it, as the trainer keeps them.
        versions: of libraries.
        report: what the merge, the quantisation or the conversion says.
        licence: of the base model.
        picture: the loss over the steps.
    """

    kind: str
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    best: tuple[float, str] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    picture: Path | None = None

    @property
    def base_is_on_a_hub(self) -> bool:
        """Whether `base` is an id, `owner/name`."""
        return bool(self.base and "/" in self.base)


def tell(directory: Path) -> Told:
    """Read what was written down about the model of a directory, there and in the run that it comes from."""
    run = next((p for p in (directory.parent, directory) if (p / "data_report.json").is_file()), directory)
    # Those of the run come first: a merged model's say that all of it was trained.
    options = _read(run / "sft_args.json") or _read(directory / "sft_args.json")
    state = _state(directory, run)
    merge, quantised = _read(directory / "merge_report.json"), _read(directory / "quantization_report.json")
    gguf = _read(directory / "gguf_report.json")
    base = _base(directory, options, merge)
    manifest = _read(directory / storage.MANIFEST)
    picture = run / "images" / "train_loss.png"
    metric, checkpoint = state.get("best_metric"), state.get("best_model_checkpoint")
    return Told(
        kind=_kind(directory, merge, quantised, gguf),
        base=portable(base) if base else None,
        options=options,
        data=_read(run / "data_report.json"),
        history=tuple(state.get("log_history") or ()),
        best=(float(metric), Path(checkpoint).name) if metric is not None and checkpoint else None,
        versions=manifest.get("versions") or _read(run / "run.lock.json").get("versions") or {},
        report=gguf or quantised or merge,
        licence=_licence(Path(base)) if base else None,
        picture=picture if picture.is_file() and options else None,
    )


def own_card(directory: Path) -> bool:
    """Whether somebody wrote the card that the directory has; not PEFT, not swift, and not who made the base model."""
    path = directory / CARD
    if not path.is_file():
        return False
    made_of = _read(directory / "merge_report.json").get("base") or _read(directory / storage.MANIFEST).get("base")
    theirs = Path(made_of) / CARD if isinstance(made_of, str) else None
    text = path.read_text(encoding="utf-8", errors="replace")
    of_base = theirs is not None and theirs.is_file() and theirs.read_bytes() == path.read_bytes()
    return UNFILLED not in text and not STUB.fullmatch(text) and not of_base


def _kind(directory: Path, *reports: Mapping[str, Any]) -> str:
    merge, quantised, gguf = reports
    if gguf or any(directory.glob("*.gguf")):
        return "gguf"
    if quantised:
        return "quantized"
    if merge:
        return "merge" if merge.get("combination") else "finetune"
    adapter = next(directory.glob("adapter_config.json"), None) or next(directory.glob("*/adapter_config.json"), None)
    return "adapter" if adapter else "finetune"


def _base(directory: Path, options: Mapping[str, Any], merge: Mapping[str, Any]) -> str | None:
    adapter = _read(directory / "adapter_config.json")
    said = options.get("model_id_or_path") or adapter.get("base_model_name_or_path") or merge.get("base")
    said = said or _read(directory / storage.MANIFEST).get("base")
    return said if isinstance(said, str) else None


def _state(directory: Path, run: Path) -> dict[str, Any]:
    """The trainer's state: the checkpoint's own, or that of the checkpoint that the model was made of."""
    step = re.match(r"\.?(?:tmp-)?(checkpoint-\d+)", directory.name)
    places = [directory, *([run / step[1]] if step else [])]
    return next((found for place in places if (found := _read(place / "trainer_state.json"))), {})


def _licence(base: Path) -> str | None:
    """What the card of the base model says, where its files are here."""
    path = base / CARD
    match = FRONT.match(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    try:
        front = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return None
    said = front.get("license") if isinstance(front, dict) else None
    return said if isinstance(said, str) else None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > LARGEST:
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def repository_name(directory: Path, told: Told) -> str:
    """What a repository is called that nobody named: model and tuner, or the directory."""
    options = told.options
    if told.kind in ("quantized", "gguf") or not options:
        name = directory.name
    else:
        model = options.get("model_type") or Path(hub_id(told.base or "") or told.base or directory.name).name
        name = f"{model}-{options.get('sft_type') or 'full'}" + (
            "-merged" if directory.name.endswith("-merged") else ""
        )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"

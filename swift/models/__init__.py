"""Registered models: one row each, in `catalog/`, and how to look them up.

Nothing needs a row: any local directory or hub id loads. A row adds a short name, both hubs' ids, the chat template and
the modules LoRA adapts by default. A new size is one line in its family's file; a plug-in calls `MODELS.add`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swift.registry import Names, Registry


@dataclass(frozen=True)
class ModelRecord:
    """What is known about one model before any of its files is there.

    Args:
        name: what `--model_type` takes.
        template: name of its chat template, "auto" for the tokenizer's own.
        ms: id on ModelScope, None when it is not there.
        hf: id on Hugging Face, None when it is not there.
        path: its directory, for a model that is on this disk and needs no hub.
        targets: names of the modules that LoRA adapts by default.
        arch: the class named in its config.json.
        dtype: bf16, fp16 or fp32 when it only runs so, else None.
        eos_token: the token that ends an answer, None when the tokenizer's own is right.
        pad_token: the token that fills up, for a tokenizer that names none; None for the one that ends an answer.
        revision: branch, tag or commit to download, None for the newest.
        requires: packages that it needs beside ours, and versions that its own code was written for.
        family: what it is listed under, such as "qwen".
    """

    name: str
    template: str
    ms: str | None = None
    hf: str | None = None
    path: str | None = None
    targets: tuple[str, ...] = ()
    arch: str = ""
    dtype: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    revision: str | None = None
    requires: tuple[str, ...] = ()
    family: str = ""


def family(name: str, ms: str | None, hf: str | None, **shape: Any) -> Callable[..., ModelRecord]:
    """Rows of one family: `row(name, template, repository, hf_repository)`, the last only where it differs.

    Args:
        name: what the rows are listed under.
        ms: owner of the repositories on ModelScope, None where they are not there; a repository "owner/name" has its
            own.
        hf: the same on Hugging Face.
        shape: what all rows have: `targets`, `arch` and whatever else a row may say.
    """

    def row(name_of: str, template: str, repository: str, hf_repository: str | None = None, **more: Any) -> ModelRecord:
        twin = hf_repository or repository.rpartition("/")[2]
        here, there = _hub_id(ms, repository), _hub_id(hf, twin)
        return ModelRecord(name_of, template, here, there, **{"family": name, **shape, **more})

    return row


def _hub_id(owner: str | None, repository: str) -> str | None:
    if "/" in repository:
        return repository
    return f"{owner}/{repository}" if owner else None


MODELS: Registry[ModelRecord] = Registry("model", "swift.models.catalog")
ModelType = Names(MODELS)


def find_by_hub_id(hub_id: str) -> ModelRecord | None:
    """The row with this id on either hub, whatever its capitals; None when there is none."""
    wanted = hub_id.lower()
    return next((row for row in MODELS.values() if wanted in {i.lower() for i in (row.ms, row.hf) if i}), None)


def find_by_arch(arch: str) -> ModelRecord | None:
    """The first row of this model class, such as "Qwen2ForCausalLM"; None when there is none."""
    return next((row for row in MODELS.values() if arch and row.arch == arch), None)


def get_default_template_type(model_type: str) -> str:
    """Name of the chat template of a registered model."""
    return MODELS[model_type].template


def get_default_lora_target_modules(model_type: str) -> list[str]:
    """Names of the modules that LoRA adapts by default in a registered model."""
    return list(MODELS[model_type].targets)

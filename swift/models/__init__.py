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
        revision: branch, tag or commit to download, None for the newest.
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
    revision: str | None = None


def family(ms: str, hf: str, **shape: Any) -> Callable[..., ModelRecord]:
    """Rows of one family: `row(name, template, repository, hf_repository)`, the last only where it differs.

    Args:
        ms: owner of the repositories on ModelScope; a repository "owner/name" has its own.
        hf: the same on Hugging Face.
        shape: `targets` and `arch` of every row.
    """

    def row(name: str, template: str, repository: str, hf_repository: str | None = None, **more: Any) -> ModelRecord:
        twin = hf_repository or repository.rpartition("/")[2]
        here, there = (repo if "/" in repo else f"{owner}/{repo}" for owner, repo in ((ms, repository), (hf, twin)))
        return ModelRecord(name, template, here, there, **{**shape, **more})

    return row


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

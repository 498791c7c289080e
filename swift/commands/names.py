"""The names that options know, for editors and shells: registered models, templates, data sets and tuners."""

from __future__ import annotations

from functools import cache

from swift.datasets import DATASETS
from swift.models import MODELS
from swift.templates import TEMPLATES
from swift.tuners.methods import available_sft_types

ONLY_THESE = ("sft_type",)


@cache
def known_names() -> dict[str, list[str]]:
    """Names by option. Other values are allowed too, but for the options in `ONLY_THESE`."""
    datasets = sorted(DATASETS)
    return {
        "model_type": sorted(MODELS),
        "template_type": ["AUTO", "auto", *sorted(TEMPLATES)],
        "dataset": datasets,
        "val_dataset": datasets,
        "eval_dataset": datasets,
        "sft_type": available_sft_types(),
        "lora_target_modules": ["DEFAULT", "ALL", "EMBEDDING"],
        "lora_modules_to_save": ["EMBEDDING", "LN"],
    }

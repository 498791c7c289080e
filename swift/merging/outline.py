"""What a model calls its parameters, asked of the model without its weights."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swift.models.source import ModelSource


def parameter_names(source: ModelSource) -> list[str]:
    """The names of all parameters, tied ones under each of theirs. Nothing is loaded."""
    options = {"trust_remote_code": source.trusted, "local_files_only": True}
    config = AutoConfig.from_pretrained(str(source.path), **options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=source.trusted)
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]

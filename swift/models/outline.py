"""A model without its weights: modules, shapes and dtypes on the meta device, which takes no memory."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from swift.errors import DataError
from swift.models.source import ModelSource


def outline_model(source: ModelSource, torch_dtype: torch.dtype) -> PreTrainedModel:
    """The model as its config.json describes it, on the meta device: what it holds can be counted and matched by name.

    Raises:
        DataError: the config describes no model that can be built.
    """
    try:
        config = AutoConfig.from_pretrained(str(source.path), trust_remote_code=source.trusted, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch_dtype, trust_remote_code=source.trusted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(
            "MODEL-01", f"{source.path}: config.json describes no model: {said}", fix="check config.json"
        ) from error

"""AutoModelForCausalLM with PaddleNLP's arguments, over that of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from swift import hub
from swift.errors import ConfigError, NotFoundError
from swift.peft.config import as_dtype

# PaddleNLP's names of what most configs of transformers call otherwise.
NAMES = {"n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}


class AutoModelForCausalLM:
    """Loads causal language models."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args: Any,
        tensor_parallel_output: bool = True,
        tensor_parallel_degree: int = -1,
        tensor_parallel_rank: int = 0,
        dtype: Any = None,
        **kwargs: Any,
    ) -> PreTrainedModel:
        """The model of a directory, or of a hub id, which is downloaded.

        `config.n_head` and `config.n_layer` can be read from every model after this, as in PaddleNLP.

        Args:
            pretrained_model_name_or_path: directory or id.
            args: for transformers.
            tensor_parallel_output: no matter on one device: the logits are whole.
            tensor_parallel_degree: 1 or less.
            tensor_parallel_rank: 0.
            dtype: a torch or Paddle dtype or its name; None is that of the files.
            kwargs: for transformers.

        Raises:
            ConfigError: a model split over several devices is asked for.
            NotFoundError: there is no such directory, or the hub has no such model.
        """
        if tensor_parallel_degree > 1 or tensor_parallel_rank > 0:
            what = f"tensor_parallel_degree={tensor_parallel_degree}, tensor_parallel_rank={tensor_parallel_rank}"
            why = "layers that are split over several devices are not there yet"
            raise ConfigError("CONFIG-03", what, why=why, fix="tensor_parallel_degree=1, or -1")
        given = pretrained_model_name_or_path
        path = Path(given).expanduser() if hub.is_path(given) else hub.fetch_model(str(given))
        if not path.is_dir():
            raise NotFoundError("FOUND-01", f"{path} is no directory", fix="give that of a model, or the id of one")
        kwargs |= {} if dtype is None else {"dtype": as_dtype(dtype)}
        model = transformers.AutoModelForCausalLM.from_pretrained(path, *args, **kwargs)
        _name(type(model.config))
        return model


def _name(config: Any) -> None:
    """Let a class of configs be read by PaddleNLP's names too, unless it has them."""
    own = set(config.attribute_map.values())
    config.attribute_map = {**{k: v for k, v in NAMES.items() if k not in own}, **config.attribute_map}

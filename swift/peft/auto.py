"""AutoModelForCausalLM with PaddleNLP's arguments, over that of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from swift import hub
from swift.errors import ConfigError, NotFoundError
from swift.parallel.groups import make_group
from swift.parallel.load import load_part
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
        tensor_parallel_rank: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> PreTrainedModel:
        """The model of a directory, or of a hub id, which is downloaded.

        `config.n_head` and `config.n_layer` can be read from every model after this, as in PaddleNLP.

        Args:
            pretrained_model_name_or_path: directory or id.
            args: for transformers.
            tensor_parallel_output: whether each process keeps the logits of its part of the vocabulary, from which
                the model makes its loss all the same; False gives every process those that one alone has. No matter
                on one device.
            tensor_parallel_degree: how many processes, started by torchrun, share the model: each reads and holds its
                part of every layer. 1 or less is one.
            tensor_parallel_rank: which of them this is; None asks the environment.
            dtype: a torch or Paddle dtype or its name; None is that of the files.
            kwargs: for transformers.

        Raises:
            ConfigError: the degree divides neither the processes nor the model's heads, or nothing of the kind is
                offered for this model.
            NotFoundError: there is no such directory, or the hub has no such model.
        """
        if tensor_parallel_degree <= 1 and tensor_parallel_rank:
            what = f"tensor_parallel_rank={tensor_parallel_rank} with tensor_parallel_degree={tensor_parallel_degree}"
            raise ConfigError("CONFIG-03", what, why="a rank is one of several", fix="tensor_parallel_degree=2")
        split = tensor_parallel_degree > 1
        group = make_group(tensor_parallel_degree, tensor_parallel_rank) if split else None
        given = pretrained_model_name_or_path
        path = Path(given).expanduser() if hub.is_path(given) else hub.fetch_model(str(given))
        if not path.is_dir():
            raise NotFoundError("FOUND-01", f"{path} is no directory", fix="give that of a model, or the id of one")
        kwargs |= {} if dtype is None else {"dtype": as_dtype(dtype)}
        if group is not None:
            model = load_part(path, group, whole_logits=not tensor_parallel_output, **kwargs)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(path, *args, **kwargs)
        _name(type(model.config))
        return model


def _name(config: Any) -> None:
    """Let a class of configs be read by PaddleNLP's names too, unless it has them."""
    own = set(config.attribute_map.values())
    config.attribute_map = {**{k: v for k, v in NAMES.items() if k not in own}, **config.attribute_map}

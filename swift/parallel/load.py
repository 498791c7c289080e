"""From a directory to this process's part of the model in it; only that part is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from swift.errors import ConfigError, DataError
from swift.parallel.cuts import Cut, cut_of, mark
from swift.parallel.groups import Group
from swift.parallel.plan import cut_model, share_gradients

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHOWN = 5


def load_part(
    path: str | Path,
    group: Group,
    *,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    whole_logits: bool = True,
    **options: Any,
) -> PreTrainedModel:
    """This process's part of a causal language model.

    Args:
        path: a directory with config.json and safetensors files.
        group: the processes that share the model.
        dtype: of the weights; None is that of config.json.
        attn_implementation: "eager", "sdpa" or "flash_attention_2"; None for the best there is.
        whole_logits: whether every process gets all logits, or those of its part of the vocabulary.
        options: values that replace those of config.json.

    Raises:
        ConfigError: the model cannot be cut so; see `swift.parallel.plan.cut_model`.
        DataError: weights are missing, or of another shape.
    """
    directory = Path(path)
    config = AutoConfig.from_pretrained(str(directory), local_files_only=True, **options)
    if config.to_dict().get("quantization_config"):
        what = f"{directory} is quantised: its weights cannot be cut between processes"
        raise ConfigError("CONFIG-03", what, fix="the same model without quantisation")
    said = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, **said, **({} if dtype is None else {"dtype": dtype}))
    cut_model(model, group, whole_logits=whole_logits)
    _fill(model, directory)
    model.tie_weights()
    share_gradients(model, group)
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(directory), local_files_only=True)
    return model.eval()


@torch.no_grad()
def read_part(model: PreTrainedModel, directory: str | Path) -> None:
    """Give a model that is cut this process's part of the weights in a directory. Raises as `load_part`."""
    for _, _, like, part in _parts(model, Path(directory)):
        like.copy_(part)


def _fill(model: PreTrainedModel, directory: Path) -> None:
    """Put what was read in the place of tensors on the meta device."""
    for module, name, like, part in _parts(model, directory):
        if name in module._parameters:
            own = nn.Parameter(part, requires_grad=part.is_floating_point())
            cut = cut_of(like)
            if cut is not None:
                mark(own, cut)
            module._parameters[name] = own
        else:
            module._buffers[name] = part


def _parts(model: PreTrainedModel, directory: Path) -> Iterator[tuple[nn.Module, str, Tensor, Tensor]]:
    """Every module with the name of a tensor of it, that tensor, and this process's part of what a file has for it."""
    files, missing = _files(directory), []
    with ExitStack() as stack:
        opened = {name: stack.enter_context(safe_open(directory / name, "pt")) for name in sorted({*files.values()})}
        for module, name, key, like in list(_tensors(model)):
            found = next((known for known in _spellings(model, key) if known in files), None)
            if found is None:
                missing += [] if _is_tied(model, key) else [key]
                continue
            yield module, name, like, _read(opened[files[found]].get_slice(found), like, found)
    if missing:
        what = f"{directory} lacks {len(missing)} weights of the model: {', '.join(missing[:SHOWN])}"
        raise DataError("MODEL-01", what, why="a part is read under the model's own names only")


def _files(directory: Path) -> dict[str, str]:
    """The file of each tensor."""
    if (directory / INDEX).is_file():
        return json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
    if not (directory / ONE).is_file():
        what = f"{directory} has no safetensors: only of them can a part be read"
        raise DataError("MODEL-01", what, fix="save the model once with transformers' save_pretrained, and use that")
    with safe_open(directory / ONE, "pt") as file:
        return dict.fromkeys(file.keys(), ONE)


def _tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """The module, name, key and present tensor of everything that a file has to say."""
    for path, module in model.named_modules():
        saved = {name: b for name, b in module._buffers.items() if name not in module._non_persistent_buffers_set}
        for name, tensor in [*module._parameters.items(), *saved.items()]:
            if tensor is not None:
                yield module, name, f"{path}.{name}".lstrip("."), tensor


def _spellings(model: PreTrainedModel, key: str) -> list[str]:
    """The names that a tensor may have: a file of the body alone leaves out the first word."""
    prefix = f"{model.base_model_prefix}."
    return [key, key.removeprefix(prefix)]


def _is_tied(model: PreTrainedModel, key: str) -> bool:
    head = model.get_output_embeddings()
    tied = bool(model.config.get_text_config(decoder=True).tie_word_embeddings)
    own = next((path for path, module in model.named_modules() if module is head), None)
    return tied and own is not None and key == f"{own}.weight"


def _read(file: Any, like: Tensor, key: str) -> Tensor:
    """The part of a tensor in a file that `like` has the shape of, in its dtype."""
    cut, shape = cut_of(like), list(file.get_shape())
    wanted = list(like.shape if cut is None else cut.whole_shape(like))
    if shape != wanted:
        raise DataError("MODEL-01", f"{key} has the shape {shape}, not {wanted}", fix="check config.json")
    return (file[:] if cut is None else file[_places(cut, like)]).to(like.dtype).contiguous()


def _places(cut: Cut, like: Tensor) -> tuple[slice, ...]:
    size = like.shape[cut.axis]
    own = slice(cut.group.rank * size, (cut.group.rank + 1) * size)
    return tuple(own if axis == cut.axis else slice(None) for axis in range(like.ndim))

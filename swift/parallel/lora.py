"""PEFT's LoRA on layers that are cut: on a column B is cut with the outputs, on a row A with the inputs."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from swift.errors import ConfigError
from swift.parallel.collectives import add_up, spread
from swift.parallel.cuts import Cut, CutDropout, cut_down
from swift.parallel.groups import Group
from swift.parallel.layers import ColumnLinear, CutLinear, RowLinear
from swift.parallel.plan import group_of

M = TypeVar("M", bound=nn.Module)


def cut_lora(model: M) -> M:
    """Cut the LoRA of a model whose base is cut; changed in place. One without either comes back as it is.

    What each process has are parts of the A and B that one alone would have made, so the start is the same.

    Raises:
        ConfigError: an adapter is something else than plain LoRA on linear layers.
    """
    cut = isinstance(model, PeftModel) and group_of(model.get_base_model()) is not None
    for path, layer in model.named_modules() if cut else ():
        if not isinstance(layer, BaseTunerLayer):
            continue
        base = layer.get_base_layer()
        if type(layer) is LoraLinear and isinstance(base, nn.Linear) and not layer.lora_variant:
            if isinstance(base, CutLinear) and not base.whole:
                for name in layer.lora_A:
                    _cut(layer, name, base)
        else:
            kind = f"{type(layer).__name__} on a {type(base).__name__}"
            why = "only plain LoRA on linear layers is cut with its base"
            raise ConfigError("CONFIG-03", f"tensor parallel: {path} has a {kind}", why=why)
    return model


def _cut(layer: Any, name: str, base: CutLinear) -> None:
    a, b = layer.lora_A[name], layer.lora_B[name]
    if isinstance(base, ColumnLinear):
        cut_down(b.weight, Cut(0, base.group))
        if b.bias is not None:
            cut_down(b.bias, Cut(0, base.group))
        a.register_forward_hook(partial(_spread, group=base.group))
    elif isinstance(base, RowLinear):
        cut_down(a.weight, Cut(1, base.group))
        a.register_forward_hook(partial(_add_up, group=base.group))
        if isinstance(layer.lora_dropout[name], nn.Dropout):
            layer.lora_dropout[name] = CutDropout(layer.lora_dropout[name].p, Cut(-1, base.group))


def _spread(module: nn.Module, inputs: Any, output: Tensor, group: Group) -> Tensor:
    return spread(output, group)


def _add_up(module: nn.Module, inputs: Any, output: Tensor, group: Group) -> Tensor:
    return add_up(output, group)

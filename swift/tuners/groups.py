"""Parameter groups for an optimizer: LoRA+ where a config asks for it, weight decay where it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn

from swift.errors import ConfigError, UsageError
from swift.tuners.lora import LoraConfig

Group = dict[str, Any]


def param_groups(model: nn.Module, configs: Mapping[str, Any], **defaults: Any) -> list[Group]:
    """Groups of the trainable parameters of `model`, each parameter in one.

    LoRA+: A learns at `lr`, B at `lr` times the config's ratio, the parts of embeddings at a rate of their own. All
    else learns at `lr`. Vectors (biases, norms) do not decay.

    Paper: LoRA+, https://arxiv.org/abs/2402.12354, section 4.

    Args:
        model: what is trained.
        configs: its adapters' configs by name.
        defaults: what every group gets, such as `lr` and `weight_decay` (0 when not said).

    Raises:
        UsageError: LoRA+ without `lr`.
        ConfigError: a parameter that several adapters share would learn at two rates.
    """
    rates: dict[int, float] = {}
    groups: list[Group] = []
    for name, config in configs.items():
        if isinstance(config, LoraConfig) and config.lorap_lr_ratio is not None:
            if defaults.get("lr") is None:
                raise UsageError("USAGE-03", "LoRA+ needs lr", fix="create_optimizer_param_groups(lr=1e-4, ...)")
            for rate, parameters in _lora_plus(model, config, name, float(defaults["lr"])):
                trained = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}
                if any(rates.get(key, rate) != rate for key in trained):
                    raise ConfigError(
                        "CONFIG-02",
                        f"adapter {name!r} shares a parameter that learns at another rate",
                        fix="give both adapters the same lorap_lr_ratio",
                    )
                groups += _by_decay([p for key, p in trained.items() if key not in rates], **{**defaults, "lr": rate})
                rates |= dict.fromkeys(trained, rate)
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in rates]
    return groups + _by_decay(rest, **defaults)


def _lora_plus(
    model: nn.Module, config: LoraConfig, name: str, lr: float
) -> Iterator[tuple[float, Iterable[nn.Parameter]]]:
    ratio = config.lorap_lr_ratio or 1.0
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for rate, containers in (
        (lr, [layer.lora_A for layer in layers]),
        (lr * ratio, [layer.lora_B for layer in layers]),
    ):
        yield rate, [p for container in containers if name in container for p in container[name].parameters()]
    embeddings = [container for layer in layers for container in (layer.lora_embedding_A, layer.lora_embedding_B)]
    yield config.lorap_emb_lr, [container[name] for container in embeddings if name in container]


def _by_decay(parameters: Iterable[nn.Parameter], **options: Any) -> list[Group]:
    parameters, decay = list(parameters), options.pop("weight_decay", 0.0)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay, **options},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **options},
    ]
    return [group for group in groups if group["params"]]

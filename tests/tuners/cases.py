"""The table that the laws of tuners run over: methods by hosts, and what it takes to move a model off its start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import IA3Config
from torch import nn

from swift.tuners import AdapterConfig, LoraConfig
from tests.tiny import tiny_model


class Mlp(nn.Module):
    """Two blocks of a linear layer and an activation; a scalar loss when there are labels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        outputs = self.head(torch.tanh(self.second(torch.tanh(self.first(inputs)))))
        return {"logits": outputs} | ({"loss": (outputs - labels).square().mean()} if labels is not None else {})


@dataclass(frozen=True)
class Host:
    """A model to tune: how it is made, what it is given, and which modules each method goes to."""

    make: Callable[[], nn.Module]
    inputs: dict[str, torch.Tensor]
    linears: list[str]
    wide: str
    dim: int


HOSTS = {
    "mlp": Host(
        make=Mlp,
        inputs={"inputs": torch.linspace(-1, 1, 24).reshape(3, 8), "labels": torch.ones(3, 4)},
        linears=["first", "second"],
        wide="second",
        dim=8,
    ),
    "lm": Host(
        make=lambda: tiny_model("qwen2", vocab_size=64, hidden=32),
        inputs={"input_ids": torch.arange(14).reshape(2, 7), "labels": torch.arange(14).reshape(2, 7)},
        linears=["q_proj", "v_proj"],
        wide="mlp",
        dim=32,
    ),
}

METHODS: dict[str, Callable[[Host], Any]] = {
    "lora": lambda host: LoraConfig(r=4, lora_alpha=8, target_modules=host.linears),
    "ia3": lambda host: IA3Config(target_modules=host.linears, feedforward_modules=[]),
    "adapter": lambda host: AdapterConfig(dim=host.dim, target_modules=[host.wide], adapter_length=6),
}


def run(model: nn.Module, host: Host) -> torch.Tensor:
    """The model's logits in evaluation mode."""
    model.eval()
    with torch.no_grad():
        inputs = {key: value for key, value in host.inputs.items() if key != "labels"}
        return model(**inputs)["logits"]


def stir(model: nn.Module, seed: int = 1) -> None:
    """Give every trainable parameter new values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def train(model: nn.Module, host: Host, steps: int = 3) -> list[float]:
    """Losses of a few steps of plain gradient descent."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    losses = []
    for _ in range(steps):
        loss = model(**host.inputs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses

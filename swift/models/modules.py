"""Where a model keeps its parts: embeddings, output head, decoder layers."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def find_embeddings(model: nn.Module) -> list[str]:
    """Names of the token and position embeddings, as `named_modules` gives them."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]


def find_output_head(model: PreTrainedModel) -> str | None:
    """Name of the layer that gives the logits; None when the model has none of its own."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None) if head else None


def find_decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the layers that follow each other: the longest list in the model, the outermost of equals."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    assert lists, "a decoder has layers"
    return max(lists, key=lambda pair: len(pair[1]))

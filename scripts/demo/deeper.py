"""A larger model that begins as a smaller one: layers are added that at first change nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def deepen(model_dir: str, times: int, directory: Path) -> str:
    """Save the model with `times` as many layers, of which the new ones add nothing yet; where it is.

    After each layer stand copies of it whose outputs begin at zero, so that they learn from what the layer knows.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    layers = []
    for layer in model.model.layers:
        layers.append(layer)
        for _ in range(times - 1):
            added = copy.deepcopy(layer)
            added.self_attn.o_proj.weight.zero_()
            added.mlp.down_proj.weight.zero_()
            layers.append(added)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    config.layer_types = [kind for kind in model.config.layer_types for _ in range(times)]
    model.model.layers = torch.nn.ModuleList(layers)
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
    model.config = config
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(directory)
    return str(directory)

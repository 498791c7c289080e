from __future__ import annotations

import pytest
from torch import nn

from swift.models.modules import find_decoder_layers, find_embeddings, find_output_head
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("kind", "embeddings", "layers"),
    [
        ("qwen2", ["model.embed_tokens"], "model.layers"),
        ("llama", ["model.embed_tokens"], "model.layers"),
        ("gpt2", ["transformer.wte", "transformer.wpe"], "transformer.h"),
    ],
)
def test_the_parts_of_a_decoder(kind: str, embeddings: list[str], layers: str):
    model = tiny_model(kind, layers=3)
    assert find_embeddings(model) == embeddings
    assert find_output_head(model) == "lm_head"
    name, found = find_decoder_layers(model)
    assert (name, len(found)) == (layers, 3)


def test_a_body_has_no_head():
    assert find_output_head(tiny_model("llama").model) is None


def test_a_model_without_layers_is_our_mistake():
    with pytest.raises(AssertionError, match="layers"):
        find_decoder_layers(nn.Linear(1, 1))

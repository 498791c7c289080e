"""A model without weights has what the loaded one has, and takes no memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from swift.errors import DataError
from swift.models.load import load_model
from swift.models.outline import outline_model
from swift.models.source import ModelSource, find_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_has_the_names_shapes_and_dtypes_of_the_model(dtype: torch.dtype, tiny_dir: Path) -> None:
    source = find_model(None, str(tiny_dir))
    outline = dict(outline_model(source, dtype).named_parameters())
    loaded = dict(load_model(source, dtype).named_parameters())
    assert {name: (p.shape, p.dtype) for name, p in outline.items()} == {
        name: (p.shape, p.dtype) for name, p in loaded.items()
    }
    assert all(p.is_meta for p in outline.values())


def test_tied_weights_are_counted_once(tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path / "tied")
    config = json.loads((tiny_dir / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tied = ModelSource("tied", None, tmp_path / "tied", {})
    sizes = [
        sum(p.numel() for p in outline_model(source, torch.float32).parameters())
        for source in (find_model(None, str(tiny_dir)), tied)
    ]
    assert sizes[0] - sizes[1] == config["vocab_size"] * config["hidden_size"]


def test_a_config_that_describes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(DataError, match="describes no model"):
        outline_model(ModelSource("x", None, tmp_path, {}), torch.float32)

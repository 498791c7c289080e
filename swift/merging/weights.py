"""The weights of a model's directory, none of them loaded, and how the model calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from swift.merging import tensors
from swift.merging.tensors import Stored
from swift.models.files import weight_files
from swift.tuners import sampled

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
HEADS = ("lm_head.weight", "output_layer.weight", "embed_out.weight")
OTHER_NAMES = ((".mlp.", ".block_sparse_moe."),)  # a layer as transformers calls it, and as its files do


class Base:
    """The weights of a model's directory, and how the model calls them.

    Args:
        directory: the model's.
        config: its config.json.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.directory, self.config = directory, config
        self.files = {file.name: tensors.read(file) for file in weight_files(directory)}
        self.names = {name: stored for found in self.files.values() for name, stored in found.items()}
        self.embedding = next((name for end in EMBEDDINGS for name in self.names if name.endswith(end)), None)
        text = config.get("text_config")
        told = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else None)
        self.head = next((name for name in self.names if name in HEADS), None)
        self.tied = self.embedding is not None and (self.head is None or (told is True and self._stored_twice()))

    def _stored_twice(self) -> bool:
        """Whether the head's tensor is the embedding's: transformers ties what is in the files only then."""
        table, head = self.names[str(self.embedding)], self.names[str(self.head)]
        return table.shape == head.shape and all(
            torch.equal(table.rows(*block), head.rows(*block)) for block in tensors.blocks(table)
        )

    def find(self, name: str) -> str | None:
        """The name in the files of what the model calls `name`; None where there is no such tensor."""
        rest = name.partition(".")[2]
        spellings = [name, rest, f"model.{name}", f"transformer.{name}"]
        spellings += [one.replace(*pair) for pair in OTHER_NAMES for one in spellings]
        return next((one for one in spellings if one in self.names), None)

    def is_head(self, name: str) -> bool:
        """Whether the model calls the head's weight so, which is no tensor of its own where it is tied."""
        return self.tied and name in HEADS

    def sample(self, names: Iterable[str] | None = None, rows: int | None = None) -> sampled.Fingerprint:
        """The fingerprint of these weights, as a loaded model has it.

        Args:
            names: what the model calls its parameters; None takes the names in the files.
            rows: how many its tables of tokens had in training, where that is more than here; the weights that are
                missing here are NaN, which differs from nothing.
        """
        known = dict(self.names)
        if self.tied and self.head is None and self.embedding:
            known["lm_head.weight"] = known[self.embedding]
        if names is not None:
            places = {name: name if name in known else self.find(name) for name in names}
            if None in places.values():  # several tensors of the files are one of the model's
                return sampled.Fingerprint(str(self.directory))
            known = {name: known[str(place)] for name, place in places.items()}
        keys = sampled.chosen(list(known))
        tables = {self.embedding, self.head, "lm_head.weight"}
        weights = torch.cat([_elements(known[key], rows if known[key].name in tables else None) for key in keys])
        half = any(known[key].dtype == torch.float16 for key in keys)
        return sampled.Fingerprint(str(self.directory), weights, half, tuple(keys))


def _elements(stored: Stored, rows: int | None) -> torch.Tensor:
    width = torch.Size(stored.shape[1:]).numel()
    found = []
    for place in sampled.places((rows or stored.shape[0]) * width):
        row = place // width
        here = row < stored.shape[0]
        found.append(stored.rows(row, row + 1).reshape(-1)[place % width] if here else torch.tensor(torch.nan))
    return torch.stack([value.to(torch.bfloat16) for value in found])

"""Models whose positions turn by angles that depend on the longest row of a batch: they answer one row at a time."""

from __future__ import annotations

from typing import Any

BY_LENGTH = {"dynamic", "longrope"}  # kinds of RoPE whose angles depend on how long a row is


def angles_by_length(model: Any) -> str | None:
    """The kind of a model's RoPE when its angles depend on how long a row is; None when they do not."""
    said = model.config.get_text_config(decoder=True).to_dict().get("rope_parameters") or {}
    kinds = [said.get("rope_type"), *(each.get("rope_type") for each in said.values() if isinstance(each, dict))]
    return next((kind for kind in kinds if kind in BY_LENGTH), None)


def read_anew_at(model: Any) -> int | None:
    """The number of tokens at which what was remembered of a row has the wrong angles; None: never.

    `model.generate` reads the row anew there too, for the models that say this number.
    """
    if angles_by_length(model) != "longrope":
        return None
    length = model.config.get_text_config(decoder=True).to_dict().get("original_max_position_embeddings")
    return length if isinstance(length, int) else None

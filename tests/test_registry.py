"""Registries fill themselves from a catalog, refuse duplicates and suggest near names."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from swift.models import MODELS, ModelType
from swift.registry import Names, Registry, slug


@dataclass(frozen=True)
class Row:
    name: str


def test_rows_are_added_once() -> None:
    rows: Registry[Row] = Registry("row", "swift.models.catalog")
    rows.add(Row("a-1.5"), Row("b"))
    with pytest.raises(ValueError, match="row 'b' is registered twice"):
        rows.add(Row("b"))
    replaced = Row("b")
    rows.add(replaced, replace=True)
    assert rows["b"] is replaced
    assert Names(rows).a_1_5 == "a-1.5"
    assert "a_1_5" in dir(Names(rows))
    assert list(Names(rows)) == ["a-1.5", "b"]


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(KeyError, match="qwen-7b-chat"):
        _ = MODELS["qwen-7b-chta"]
    with pytest.raises(KeyError, match=r"`swift models` lists all \d+"):
        _ = MODELS["zzzzzzzzzz"]
    with pytest.raises(AttributeError):
        _ = ModelType.nothing


def test_names_are_derived_from_rows() -> None:
    assert len(MODELS) == len(MODELS.values()) == len(list(ModelType))
    assert all(getattr(ModelType, slug(name)) == name for name in MODELS)

"""Granite 3, dense and mixtures of experts. See https://github.com/ibm-granite/granite-3.0-language-models."""

from __future__ import annotations

from swift.models import MODELS, ModelRecord, family

QKV = ("q_proj", "k_proj", "v_proj")
dense = family("granite", None, "ibm-granite", targets=QKV, arch="GraniteForCausalLM")
experts = family("granite", None, "ibm-granite", targets=QKV, arch="GraniteMoeForCausalLM")


def version(number: str, sizes: str, mixtures: str = "", template: str = "auto") -> list[ModelRecord]:
    """Base and instruct models of one version, in these sizes."""
    rows = []
    for row, size in [*((dense, size) for size in sizes.split()), *((experts, size) for size in mixtures.split())]:
        name, repository = f"granite{number.replace('.', '_')}-{size}", f"granite-{number}-{size}"
        rows.append(row(name, "default-generation", f"{repository}-base"))
        rows.append(row(f"{name}-instruct", template, f"{repository}-instruct"))
    return rows


MODELS.add(
    *version("3.0", "2b 8b", "1b-a400m 3b-a800m", "granite"),
    *version("3.1", "2b 8b", "1b-a400m 3b-a800m"),
    dense("granite3_2-2b-instruct", "auto", "granite-3.2-2b-instruct"),
    dense("granite3_2-8b-instruct", "auto", "granite-3.2-8b-instruct"),
    *version("3.3", "2b 8b"),
)

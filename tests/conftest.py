"""Fixtures that every test shares: an offline, single-threaded process and tiny models on disk."""

from __future__ import annotations

import gc
import os
import signal
import sys

os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would what tests start


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept where the user keeps it."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_is_no_garbage() -> None:
    """Each run of a trainer collects garbage, which without this took longer than the run: it looked at all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _one_picture_of_a_run() -> Iterator[None]:
    """A run draws its loss alone, and not all that was logged: that took most of the time of a small one."""
    if "swift.trainers" not in sys.modules:
        yield
        return
    from swift.trainers import plots

    def plot_loss(log_history: list[dict[str, Any]], directory: Path | str) -> list[Path]:
        kept = ("step", "loss", "train_runtime")
        return whole([{name: line[name] for name in kept if name in line} for line in log_history], directory)

    whole = plots.plot_log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "plot_log", plot_loss)
        yield


@pytest.fixture(scope="module", autouse=True)
def _registered_names_stay_in_their_module() -> Iterator[None]:
    """What a test registers, or a document's plug-in, is unknown to the tests of other modules."""
    from swift.datasets import DATASETS
    from swift.models import MODELS
    from swift.templates import TEMPLATES

    before = [(registry, {row.name: row for row in registry.values()}) for registry in (MODELS, TEMPLATES, DATASETS)]
    yield
    for registry, rows in before:
        registry._records = rows


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with a ChatML tokenizer, as plain `save_pretrained` writes it."""
    from tests.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-qwen2")


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with the same tokenizer."""
    from tests.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama", "llama")


@pytest.fixture(scope="session")
def tokenizer():
    """The tiny byte-level tokenizer, in memory."""
    from tests.tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

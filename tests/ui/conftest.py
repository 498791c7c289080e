"""A browser, and pages of a model that talks long enough to be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser as browser


@pytest.fixture(scope="module")
def chat_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for a long talk."""
    from tests.tiny import save_tiny

    directory = tmp_path_factory.mktemp("browser") / "tiny-chat"
    return save_tiny(directory, initializer_range=0.2, max_position_embeddings=4096)


@pytest.fixture(scope="module")
def adapter_dir(chat_dir: Path) -> Path:
    """A LoRA on it that says other things."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(chat_dir)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(chat_dir.parent / "poet"))
    return chat_dir.parent / "poet"


@pytest.fixture(scope="module")
def serve(chat_dir: Path) -> Iterator[Callable[..., Any]]:
    """Serve a page of the tiny model, which never ends a turn and takes the time that a larger model takes."""
    from swift.commands.app_ui import app_ui_main

    pages: list[Any] = []

    def go_on(model: Any, inputs: Any, output: Any) -> None:
        output.logits[..., model.config.eos_token_id] = -1e9
        time.sleep(0.005)

    def start(**options: Any) -> Any:
        said = {"model_id_or_path": str(chat_dir), "port": 0, "lang": "en", "do_sample": False, **options}
        served = app_ui_main(prevent_thread_lock=True, **said)
        assert served is not None
        served.answers.model.register_forward_hook(go_on)
        pages.append(served)
        return served

    yield start
    for served in pages:
        served.close()

"""One server of the demo model, with a second adapter beside it, for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from swift.commands.deploy import deploy_main
from swift.commands.prepare import prepare_model_template
from swift.llm import InferArguments

MODEL = "demo-chat"


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two LoRAs of the demo model that say different things, and a DoRA."""
    home = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two", "dora")):
        model = prepare_model_template(InferArguments(model_type=MODEL)).model
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], use_dora=name == "dora")
        tuned = get_peft_model(model, config)
        torch.manual_seed(seed)
        for key, weight in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=1.0)
        tuned.save_pretrained(home / name)
    return home


@pytest.fixture(scope="module")
def served(adapters: Path) -> Iterator[Any]:
    words = ["--model_type", MODEL, "--port", "0", "--adapters_dir", str(adapters), "--max_waiting", "16"]
    served = deploy_main(words, prevent_thread_lock=True)
    yield served
    served.close()

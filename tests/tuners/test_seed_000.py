"""The guide to tuners that our users come from runs here, block by block, with local models in place of the hub's.

The guide stands beside the checkout where it is at hand; without it these tests are skipped.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from swift.tuners import SwiftModel
from tests.documents import ROOT, Block, blocks
from tests.tiny import save_tiny

GUIDE = next(ROOT.parent.glob("*/reference/*/000_*.txt"), None)
pytestmark = pytest.mark.skipif(GUIDE is None, reason="the guides are not beside this checkout")
TEXT = GUIDE.read_text(encoding="utf-8") if GUIDE else ""
BLOCKS = [block for block in blocks(TEXT) if block.language == "python"]
HUB_IDS = {"ZhipuAI/chatglm3-6b", "ZhipuAI/chatglm2-6b"}
DATA_ID = "AI-ModelScope/alpaca-gpt4-data-en"
GLM_TOKENS = ("[gMASK]", "sop", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>")
ROWS = [
    {"instruction": f"Say {number}.", "input": [None, "", f"It is {number}."][number % 3], "output": f"{number}!"}
    for number in range(40)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("guide")
    save_tiny(directory / "model", "gpt_neox", extra_special=GLM_TOKENS)
    return directory


@pytest.fixture(autouse=True)
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`modelscope` as the guide imports it, which finds our model and rows under the guide's ids."""
    monkeypatch.chdir(place)

    def local(model_id: str) -> str:
        assert model_id in HUB_IDS, model_id
        return str(place / "model")

    class Model:
        @staticmethod
        def from_pretrained(model_id: str, **kwargs: Any) -> Any:
            return AutoModelForCausalLM.from_pretrained(local(model_id), **kwargs)

    class Tokenizer:
        @staticmethod
        def from_pretrained(model_id: str, **kwargs: Any) -> Any:
            return AutoTokenizer.from_pretrained(local(model_id), **kwargs)

    class Data:
        @staticmethod
        def load(name: str, split: str) -> datasets.Dataset:
            assert (name, split) == (DATA_ID, "train")
            return datasets.Dataset.from_list(ROWS)

    stand_in = types.ModuleType("modelscope")
    stand_in.__dict__.update(
        Model=Model,
        AutoModelForCausalLM=Model,
        AutoTokenizer=Tokenizer,
        MsDataset=Data,
        GenerationConfig=GenerationConfig,
    )
    monkeypatch.setitem(sys.modules, "modelscope", stand_in)


def run(block: Block, scope: dict[str, Any] | None = None, **changes: str) -> dict[str, Any]:
    """The variables of a block that was run as a script, or further on in a `scope`."""
    text = block.text
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    scope = {"__name__": "__main__"} if scope is None else scope
    exec(compile(text, f"guide:{block.line}", "exec"), scope)
    return scope


def block_with(*marks: str) -> Block:
    (found,) = [block for block in BLOCKS if all(mark in block.text for mark in marks)]
    return found


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def drawn(which: int) -> set[str]:
    """The files in the drawing of a checkpoint that the guide makes."""
    lines = re.findall(r"^>( +)\|-- (\S+)", TEXT, re.M)
    starts = [place for place, (_, name) in enumerate(lines) if name == "configuration.json"]
    part = lines[starts[which] : starts[which + 1] if which + 1 < len(starts) else None]
    files, folder, top = set(), "", min(len(indent) for indent, _ in part)
    for indent, name in part:
        if "." not in name:
            folder = f"{name}/"
        elif name != "...":
            files.add(name if len(indent) == top else folder + name)
    return files


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 6


def test_one_tuner() -> None:
    scope = run(block_with("lora_config", "modelscope import Model", "prepare_model(model, lora_config)"))
    assert isinstance(scope["model"], peft.PeftModel)
    assert next(iter(scope["model"].parameters())).dtype == torch.bfloat16


def test_several_tuners_saved_and_loaded(place: Path) -> None:
    scope = run(block_with("AdapterConfig"))
    model = scope["model"]
    assert isinstance(model, SwiftModel)
    assert model.active_adapters == {"first_tuner", "second_tuner"}
    run(block_with("model.save_pretrained"), scope)
    assert drawn(0) == {"configuration.json"} | {
        f"{name}/{file}"
        for name in ("first_tuner", "second_tuner")
        for file in ("adapter_config.json", "adapter_model.bin")
    }
    assert drawn(0) <= tree(place / "output")
    loaded = run(block_with("Swift.from_pretrained(model, './output')"))["model"]
    assert isinstance(loaded, SwiftModel)
    assert set(loaded.adapters) == set(model.adapters)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)


def test_a_single_config_is_saved_as_default(place: Path) -> None:
    scope = run(block_with("AdapterConfig"))
    scope["model"] = scope["Swift"].prepare_model(
        scope["Model"].from_pretrained("ZhipuAI/chatglm3-6b"), scope["adapter_config"]
    )
    scope["model"].save_pretrained(save_directory="./single")
    assert drawn(1) <= tree(place / "single")


def test_the_complete_scripts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = run(block_with("Seq2SeqTrainer("), **{"output_dir='output'": "output_dir='trained'"})
    assert len(trained["train_dataset"]) + len(trained["val_dataset"]) == 40
    checkpoint = max((place / "trained").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    answered = run(
        block_with("GenerationConfig(", "get_generate_ids"),
        **{"output/checkpoint-xxx": str(checkpoint), "max_new_tokens=1024": "max_new_tokens=12"},
    )
    assert isinstance(answered["generate_ids"], list)
    assert 0 < len(answered["generate_ids"]) <= 12
    assert answered["tokenizer"].decode(answered["generate_ids"]) in capsys.readouterr().out
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(answered["model"].eval()(ids).logits, trained["model"].cpu().eval()(ids).logits)

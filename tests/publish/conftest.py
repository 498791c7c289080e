"""A hub at hand, spoken to as either of the two; and something to publish."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from swift import redact, storage
from swift.datasets.ledger import Ledger, Share
from swift.publish import faults
from tests.publish.server import Hub, serving

TOKEN = "hf_" + "Ab3" * 8
OTHERS = "hf_" + "Zz9" * 8


BOTH = pytest.mark.parametrize("hub", ["Hugging Face", "ModelScope"], indirect=True)


@pytest.fixture(params=["Hugging Face", pytest.param("ModelScope", marks=pytest.mark.slow)])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub where the token of the environment is `ann`'s."""
    hf = request.param == "Hugging Face"
    with serving({TOKEN: "ann", OTHERS: "bob"}) as found:
        speak_to(found, monkeypatch, tmp_path, hf=hf)
        yield found


def speak_to(found: Hub, monkeypatch: pytest.MonkeyPatch, place: Path, *, hf: bool) -> None:
    monkeypatch.setattr(redact, "_KNOWN", set())
    monkeypatch.setenv("USE_HF", "1" if hf else "0")
    monkeypatch.setenv("HF_TOKEN" if hf else "MODELSCOPE_API_TOKEN", TOKEN)
    monkeypatch.delenv("MODELSCOPE_API_TOKEN" if hf else "HF_TOKEN", raising=False)
    monkeypatch.setattr(faults, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", found.url)  # of processes that are started
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", found.url)
    monkeypatch.setenv("MODELSCOPE_HOME", str(place / "modelscope"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(place / "cache"))
    for name, value in {"ENDPOINT": found.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    template = f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    _make(place)
    return place


@pytest.fixture
def checkpoint(_made: Path, tmp_path: Path) -> Path:
    """A run with one checkpoint of a LoRA adapter, as `swift sft` leaves it."""
    shutil.copytree(_made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run" / "checkpoint-4"


def _make(place: Path) -> None:
    base = place / "models" / "tiny-base"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    run = place / "run"
    final = run / "checkpoint-4"
    log = [{"step": 2, "eval_loss": 2.5, "eval_acc": 0.25}, {"step": 4, "eval_loss": 2.25, "eval_acc": 0.5}]
    with storage.staged_directory(
        final, {"step": 4, "run": {"model": str(base)}, "versions": {"torch": "2.13"}}
    ) as stage:
        save_file({"a.lora_A.weight": torch.ones(4, 8)}, stage / "adapter_model.safetensors", metadata={"format": "pt"})
        torch.save({"state": {}}, stage / "optimizer.pt")
        adapter = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 8}
        storage.write_json(stage / "adapter_config.json", adapter)
        storage.write_text(stage / "README.md", "# Card\n[More Information Needed]\n")
        args = {"model_id_or_path": str(base), "sft_type": "lora", "lora_rank": 4, "learning_rate": 3e-4}
        args |= {"dataset": [f"{place}/chat.jsonl#20", "AI-ModelScope/alpaca-gpt4-data-en"], "system": "/no_think"}
        args |= {"output_dir": str(run), "hub_token": "***"}
        storage.write_json(stage / "sft_args.json", args, private=True)
        best = {"best_metric": 2.25, "best_model_checkpoint": str(final), "log_history": log}
        storage.write_json(stage / "trainer_state.json", best)
        storage.write_text(stage / "chat_template.jinja", "{{ messages }}")
    ledger = Ledger()
    ledger.read(f"{place}/chat.jsonl#20", 20, "messages")
    ledger.drop("longer than --max_length", f"{place}/chat.jsonl:7")
    ledger.account(None).train = Share(rows=18, examples=18, supervised=1234, masked=99)
    ledger.account(None).validation = Share(rows=1, examples=1, supervised=50, masked=9)
    assert ledger.balanced
    storage.write_json(run / "data_report.json", ledger.to_json())
    (run / "images").mkdir()
    (run / "images" / "train_loss.png").write_bytes(b"\x89PNG\0picture")
    (place / "chat.jsonl").write_text("")

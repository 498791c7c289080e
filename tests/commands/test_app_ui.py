"""`swift app-ui` up to the page: options, order of checks, and what the page is told."""

from __future__ import annotations

import logging
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from swift.arguments.app_ui import AppUIArguments
from swift.arguments.infer import InferArguments
from swift.cli import main
from swift.commands import app_ui
from swift.commands.app_ui import app_ui_main, load_page, upcast
from swift.errors import ConfigError, MissingPackageError, NotFoundError, UnavailableError
from swift.models.source import ModelSource
from swift.tuners import AdapterConfig, Swift
from swift.ui.words import ENGLISH


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(logging.getLogger("swift"), "warning", found.append)
    return found


def test_options_of_infer_are_taken_and_what_has_no_use_is_named(notes: list[str]) -> None:
    args = upcast(InferArguments(ckpt_dir="c", load_dataset_config=True, temperature=0.9, seed=42))
    assert (args.ckpt_dir, args.temperature, args.seed, args.port) == ("c", 0.9, None, 7860)
    assert args.eval_human
    assert not args.load_dataset_config
    assert notes == []
    assert upcast(InferArguments(ckpt_dir="c", seed=7)).seed == 7
    assert upcast(AppUIArguments(ckpt_dir="c", seed=42)).seed == 42
    args = upcast(["--ckpt_dir", "c", "--server_port", "0", "--query", "hi", "--dataset", "d.jsonl"], host="localhost")
    assert (args.host, args.port, args.query, args.dataset) == ("localhost", 0, None, [])
    assert notes == ["the chat page has no use for --query, --dataset"]


def test_without_gradio_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("page", "server", "chat_page", "completion_page", "parts"):
        monkeypatch.delitem(sys.modules, f"swift.ui.{name}", raising=False)
        monkeypatch.delattr(sys.modules["swift.ui"], name, raising=False)
    with pytest.raises(MissingPackageError, match="gradio") as caught:
        load_page()
    assert "pip install 'swift-finetune[ui]'" in str(caught.value)
    assert caught.value.exit_code == 69


def test_the_title_tells_model_and_checkpoint_apart(tmp_path: Path) -> None:
    def shown(**said: str) -> tuple[str, list[str]]:
        args = AppUIArguments(template_type="auto", dtype="fp32", **said)
        name, describe = app_ui.title(args, ModelSource("my-base", None, tmp_path, {}))
        return name, describe(ENGLISH)

    assert shown()[0] == "my-base"
    assert shown()[1][:3] == ["base model", "auto", "fp32"]
    assert shown(model_type="qwen-7b-chat")[0] == "qwen-7b-chat"
    checkpoint = tmp_path / "v0-1" / "checkpoint-9"
    checkpoint.mkdir(parents=True)
    assert shown(ckpt_dir=str(checkpoint))[0] == "my-base"
    (checkpoint / "sft_args.json").write_text('{"model_id_or_path": "/models/other"}')
    name, (which, *_) = shown(ckpt_dir=str(checkpoint))
    assert name == "other"
    assert which == "checkpoint v0-1/checkpoint-9"


def test_lora_is_merged_first_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_ui, "merge_lora", lambda args: f"{args.ckpt_dir}-merged")
    args = AppUIArguments(ckpt_dir="c", merge_lora=True)
    assert app_ui.merged(args) == AppUIArguments(ckpt_dir="c-merged")
    assert app_ui.merged(AppUIArguments(ckpt_dir="c")) == AppUIArguments(ckpt_dir="c")


def test_visitors_choose_by_the_names_of_checkpoint_base_and_adapters(tiny_dir: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    for name in ("runs/v0/checkpoint-2", "poet"):
        model = AutoModelForCausalLM.from_pretrained(tiny_dir)
        get_peft_model(model, config).save_pretrained(str(tmp_path / name))
    checkpoint = str(tmp_path / "runs" / "v0" / "checkpoint-2")
    args = AppUIArguments(ckpt_dir=checkpoint, lora_modules=[f"poet={tmp_path / 'poet'}"])

    def chosen(model: Any, args: AppUIArguments) -> list[str]:
        return list(app_ui.names(app_ui.find_adapters(args, "tiny", model), args))

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_dir)

    tuned = Swift.from_pretrained(base(), checkpoint, inference_mode=True)
    assert chosen(tuned, args) == ["v0/checkpoint-2", "tiny", "poet"]
    assert chosen(base(), replace(args, ckpt_dir=None)) == ["tiny", "poet"]
    assert chosen(base(), AppUIArguments()) == ["tiny"]
    plain = base()
    bottleneck = AdapterConfig(dim=plain.config.hidden_size, target_modules=["mlp"], adapter_length=4)
    other = Swift.prepare_model(plain, bottleneck)
    assert chosen(other, AppUIArguments(ckpt_dir=checkpoint)) == ["tiny"]


@pytest.mark.usefixtures("no_model")
def test_the_demos_say_which_page_it_is(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[bool | None] = []
    monkeypatch.setattr(app_ui, "serve", lambda args, completes, **_: kinds.append(completes))
    for main_function in (app_ui.app_ui_main, app_ui.gradio_chat_demo, app_ui.gradio_generation_demo):
        main_function(AppUIArguments(model_id_or_path=str(tiny_dir)))
    assert kinds == [None, False, True]
    monkeypatch.undo()
    monkeypatch.setattr(app_ui, "load_page", lambda: (None, None))
    with pytest.raises(ConfigError, match="completes text"):
        app_ui.gradio_chat_demo(model_id_or_path=str(tiny_dir), template_type="default-generation", port=0)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(app_ui, "load_tuned_model", never)
    monkeypatch.setattr(app_ui, "load_page", lambda: (None, None))


@pytest.mark.usefixtures("no_model")
def test_mistakes_are_found_before_weights_load(tiny_dir: Path) -> None:
    model = str(tiny_dir)
    with pytest.raises(ConfigError, match="--host"):
        app_ui_main(AppUIArguments(model_id_or_path=model, host="192.168.0.1"))
    with pytest.raises(NotFoundError):
        app_ui_main(AppUIArguments(ckpt_dir="nowhere", port=0))
    with pytest.raises(NotFoundError, match="--tools"):
        app_ui_main(AppUIArguments(model_id_or_path=model, port=0, tools="nowhere.json"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UnavailableError, match="cannot listen"):
            app_ui_main(AppUIArguments(model_id_or_path=model, port=taken.getsockname()[1]))
        words = ["app-ui", "--model_id_or_path", model, "--port", str(taken.getsockname()[1])]
        assert main(words) == 69
    assert main(["app-ui", "--model_id_or_path", model, "--host", "192.168.0.1"]) == 78
    assert main(["app-ui", "--lang", "fr", "--ckpt_dir", "x"]) == 2

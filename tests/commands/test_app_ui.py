"""`swift app-ui` up to the page: options, order of checks, and what the page is told."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

import pytest

from swift.arguments.app_ui import AppUIArguments
from swift.arguments.infer import InferArguments
from swift.cli import main
from swift.commands import app_ui
from swift.commands.app_ui import app_ui_main, load_page, upcast
from swift.errors import ConfigError, MissingPackageError, NotFoundError, UnavailableError
from swift.models.source import ModelSource
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
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UnavailableError, match="cannot listen"):
            app_ui_main(AppUIArguments(model_id_or_path=model, port=taken.getsockname()[1]))
        words = ["app-ui", "--model_id_or_path", model, "--port", str(taken.getsockname()[1])]
        assert main(words) == 69
    assert main(["app-ui", "--model_id_or_path", model, "--host", "192.168.0.1"]) == 78
    assert main(["app-ui", "--lang", "fr", "--ckpt_dir", "x"]) == 2

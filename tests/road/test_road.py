"""The main job from the first command to the last, on a tiny model, offline."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.commands.infer import infer_main
from swift.commands.merge import merge_lora
from swift.commands.sft import sft_main
from swift.llm import InferArguments, get_model_tokenizer, get_template, inference
from swift.tuners import Swift
from tests.documents import run_here
from tests.road.conftest import conversations

QUICK = ["--max_steps", "2", "--batch_size", "2", "--gradient_accumulation_steps", "1", "--eval_steps", "1"]


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_leaves_what_is_promised(run: dict) -> None:
    last = Path(run["last_model_checkpoint"])
    run_dir = last.parent
    assert run_dir.parent.name == "my-model"
    assert run_dir.name.startswith("v0-")
    assert last.name == "checkpoint-4"
    in_run = {path.name for path in run_dir.iterdir()}
    assert {"sft_args.json", "training_args.json", "data_report.json", "logging.jsonl", "images", "runs"} <= in_run
    in_checkpoint = {path.name for path in last.iterdir()}
    assert {
        "adapter_config.json", "adapter_model.safetensors", "sft_args.json", "configuration.json", "manifest.json",
        "generation_config.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    } <= in_checkpoint  # fmt: skip
    assert not list(run_dir.rglob("training_args.bin"))
    assert not list(run_dir.glob(".tmp*"))
    assert any((run_dir / "images").glob("*.png"))


def test_the_report_and_the_log_agree(run: dict) -> None:
    run_dir = Path(run["last_model_checkpoint"]).parent
    log = read_jsonl(run_dir / "logging.jsonl")
    assert log[-1]["global_step"] == run["global_step"] == 4
    losses = [line["loss"] for line in log if "loss" in line]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert {"acc", "grad_norm", "learning_rate", "global_step"} <= {k for line in log for k in line}
    evaluations = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert run["best_metric"] == pytest.approx(min(evaluations), abs=1e-6)
    account = json.loads((run_dir / "data_report.json").read_text())
    assert run["dataset_info"] == account


def test_every_row_is_accounted_for(run: dict) -> None:
    account = run["dataset_info"]
    assert account["rows_read"] == 40
    assert account["train"]["examples"] + account["validation"]["examples"] == 40


def test_the_saved_options_are_the_decided_ones(run: dict) -> None:
    saved = json.loads((Path(run["last_model_checkpoint"]) / "sft_args.json").read_text())
    assert saved["dtype"] == "fp32"
    assert saved["learning_rate"] == 1e-2
    assert saved["template_type"] == "auto"


def write_alpaca_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["instruction", "input", "output"])
        writer.writerows(
            [f"Add {i} and {i}", "" if i % 2 else "as a word", f"It is {2 * i}, of course"] for i in range(12)
        )


def write_sharegpt(path: Path) -> None:
    turns = [[("human", f"Who is {i}?"), ("gpt", f"{i} is a friend.")] for i in range(12)]
    rows = [{"conversations": [{"from": role, "value": text} for role, text in turn]} for turn in turns]
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_messages(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(12)), encoding="utf-8")


FORMATS = {"messages.jsonl": write_messages, "alpaca.csv": write_alpaca_csv, "sharegpt.json": write_sharegpt}


@pytest.mark.parametrize("name", FORMATS)
def test_own_data_on_an_unregistered_model(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FORMATS[name](here / name)
    assert run_here(["sft", "--model_id_or_path", "my-model", "--dataset", name, "--output_dir", "out", *QUICK]) == 0
    assert run_here(["infer", "--ckpt_dir", "out", "--query", "Who are you?", "--max_new_tokens", "8"]) == 0
    assert run_here(["infer", "--ckpt_dir", "out", "--load_dataset_config", "true", "--max_new_tokens", "8"]) == 0
    assert run_here(["export", "--ckpt_dir", "out", "--merge_lora", "true"]) == 0
    merged = next((here / "out").glob("*/*/checkpoint-*-merged"))
    assert run_here(["infer", "--ckpt_dir", str(merged), "--query", "Who are you?", "--max_new_tokens", "8"]) == 0
    AutoModelForCausalLM.from_pretrained(merged)
    assert AutoTokenizer.from_pretrained(merged).chat_template


def test_the_whole_road_without_a_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address} was tried")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail(f"looked up {a[0]}"))
    report = sft_main(["--model_id_or_path", "my-model", "--dataset", "chat.jsonl", *QUICK])
    args = InferArguments(ckpt_dir=report["best_model_checkpoint"], load_dataset_config=True, max_new_tokens=4)
    assert infer_main(args)["result"]
    assert Path(merge_lora(args)).is_dir()


def test_merged_and_unmerged_answer_the_same(run: dict, home: Path, tmp_path: Path) -> None:
    checkpoint = run["last_model_checkpoint"]
    common = {
        "do_sample": False,
        "max_new_tokens": 12,
        "dataset": [str(home / "chat.jsonl")],
        "result_dir": str(tmp_path),
    }
    args = InferArguments(ckpt_dir=checkpoint, **common)
    unmerged = infer_main(args)["result"]
    merged_dir = merge_lora(args, device_map="cpu")
    assert args.ckpt_dir == checkpoint, "merging has written to what it was given"
    merged = infer_main(InferArguments(ckpt_dir=merged_dir, **common))["result"]
    assert [row["response"] for row in merged] == [row["response"] for row in unmerged]
    assert infer_main(args)["result"] == unmerged
    plain = AutoModelForCausalLM.from_pretrained(home / "my-model")
    trained = AutoModelForCausalLM.from_pretrained(merged_dir)
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), trained.parameters(), strict=True))


def test_python_inference_with_a_checkpoint(run: dict, home: Path) -> None:
    model, tokenizer = get_model_tokenizer(None, model_id_or_path=str(home / "my-model"))
    model = Swift.from_pretrained(model, run["last_model_checkpoint"], inference_mode=True)
    template = get_template("auto", tokenizer)
    model.generation_config.max_new_tokens = 8
    response, history = inference(model, template, "Who are you?")
    assert history == [["Who are you?", response]]


@pytest.mark.parametrize("sft_type", ["adapter", "full"])
def test_other_tuners(sft_type: str, here: Path) -> None:
    common = [
        "--model_id_or_path",
        "my-model",
        "--dataset",
        "chat.jsonl",
        "--sft_type",
        sft_type,
        "--learning_rate",
        "1e-3",
    ]
    report = sft_main([*common, *QUICK])
    result = infer_main(["--ckpt_dir", report["last_model_checkpoint"], "--query", "hi", "--max_new_tokens", "4"])[
        "result"
    ]
    assert result[0]["query"] == "hi"


def test_the_swift_layout(here: Path) -> None:
    report = sft_main(["--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--tuner_backend", "swift", *QUICK])
    checkpoint = Path(report["last_model_checkpoint"])
    assert (checkpoint / "default" / "adapter_config.json").is_file()
    assert run_here(["export", "--ckpt_dir", str(checkpoint), "--to_peft_format", "true"]) == 0
    assert (checkpoint.with_name(f"{checkpoint.name}-peft") / "adapter_config.json").is_file()
    assert run_here(["merge-lora", "--ckpt_dir", str(checkpoint)]) == 0


def test_continue_an_adapter_on_new_data(run: dict, here: Path) -> None:
    write_alpaca_csv(here / "new.csv")
    report = sft_main(
        ["--model_id_or_path", "my-model", "--dataset", "new.csv", "--resume_from_checkpoint", run["last_model_checkpoint"],
         "--resume_only_model", "true", *QUICK]
    )  # fmt: skip
    assert report["global_step"] == 2
    config = json.loads((Path(report["last_model_checkpoint"]) / "adapter_config.json").read_text())
    assert config["r"] == 8


def test_resume_is_the_run_that_never_stopped(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    common = [
        "--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--batch_size", "3", "--gradient_accumulation_steps", "2",
        "--eval_steps", "2", "--save_total_limit", "-1", "--max_steps", "6", "--add_output_dir_suffix", "false",
    ]  # fmt: skip
    sft_main([*common, "--output_dir", "whole"])
    sft_main([*common, "--output_dir", "parts"])
    for step in (4, 6):
        for file in (here / "parts" / f"checkpoint-{step}").iterdir():
            file.unlink()
        (here / "parts" / f"checkpoint-{step}").rmdir()
    sft_main([*common, "--output_dir", "parts", "--resume_from_checkpoint", "auto"])
    weights = "checkpoint-6/adapter_model.safetensors"
    assert (here / "whole" / weights).read_bytes() == (here / "parts" / weights).read_bytes()
    sft_main([*common, "--output_dir", "parts", "--resume_from_checkpoint", "auto"])
    assert "step 6/6 is done already" in caplog.text


PLUGIN = """
from transformers import TrainerCallback
from swift.trainers import register_callback, register_loss, register_metric
from swift.trainers.loss import cross_entropy

@register_loss("doubled")
def doubled(logits_NV, targets_N):
    return 2 * cross_entropy(logits_NV, targets_N)

@register_metric("rows")
def rows(predictions_BT, labels_BT):
    return {"rows": float(len(labels_BT))}

@register_callback("noted")
class Noted(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        open("noted.txt", "w").write(str(state.global_step))
"""


def test_a_plugin_brings_a_loss_a_metric_and_a_callback(here: Path) -> None:
    (here / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    common = ["--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--dataset_test_ratio", "0.1", *QUICK]
    named = ["--loss_name", "doubled", "--metrics", "rows", "--callbacks", "noted"]
    plain = sft_main(common)
    own = sft_main([*common, "--custom_register_path", "plugin.py", *named])
    assert own["log_history"][0]["loss"] == pytest.approx(2 * plain["log_history"][0]["loss"], rel=1e-5)
    assert next(line["eval_rows"] for line in own["log_history"] if "eval_rows" in line) == 4
    assert (here / "noted.txt").read_text() == "2"

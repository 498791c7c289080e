"""Packed runs through the command: what they train on, that they go on to the bit, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift.cli import main
from swift.commands.sft import sft_main
from swift.errors import ConfigError, SeveralErrors

TRAIN = [
    "--model_id_or_path", "my-model", "--batch_size", "1", "--eval_steps", "2",
    "--gradient_accumulation_steps", "2", "--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-2",
    "--add_output_dir_suffix", "false", "--max_length", "150", "--packing", "--save_total_limit", "-1",
]  # fmt: skip


def train(output: str, *words: str, dataset: tuple[str, ...] = ("chat.jsonl",)) -> dict[str, Any]:
    return sft_main([*TRAIN, "--dataset", *dataset, "--output_dir", output, *words])


def weights(run: str, step: int) -> bytes:
    return (Path(run) / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()


def lines(run: str) -> list[float]:
    entries = [json.loads(line) for line in (Path(run) / "logging.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.parametrize("streamed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_packed_run_goes_on_to_the_bit(here: Path, streamed: bool) -> None:
    words = ["--max_steps", "6", *(["--streaming", "--streaming_buffer_size", "11"] if streamed else [])]
    whole = train("whole", *words)
    train("parts", *words, "--resume_from_checkpoint", "whole/checkpoint-2")
    assert weights("parts", 6) == weights("whole", 6)
    assert lines("parts") == lines("whole")[2:]
    rows = whole["dataset_info"]
    assert rows["rows_read"] == rows["train"]["rows"] + rows["validation"]["rows"]
    if not streamed:
        assert rows["rows_read"] == 40  # rows, not packs
        with pytest.raises(ConfigError, match="would not be exact: rows was"):
            train("other", *words, "--packing", "false", "--resume_from_checkpoint", "whole/checkpoint-2")


def test_a_step_over_one_pack_is_a_step_over_its_rows(here: Path) -> None:
    one = [
        "--max_steps",
        "1",
        "--gradient_accumulation_steps",
        "1",
        "--dataset_test_ratio",
        "0",
        "--lora_dropout_p",
        "0",
    ]
    packed = train("packed", *one, "--max_length", "4000")
    plain = train("plain", *one, "--max_length", "4000", "--packing", "false", "--batch_size", "40")
    assert lines("packed") == pytest.approx(lines("plain"), rel=1e-5)
    assert packed["dataset_info"]["train"] == plain["dataset_info"]["train"]


def test_packs_that_were_prepared_are_trained_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--model_id_or_path", "my-model", "--max_length", "150"]
    assert main(["data", "prepare", "chat.jsonl", *how, "--packing", "true", "--output", "ready"]) == 0
    shown = capsys.readouterr().out
    assert "packed: 39 rows in " in shown
    command = shown.partition("to train from it:  swift ")[2].split()
    assert main([*command, "--max_steps", "1", "--output_dir", "typed"]) == 0
    assert (here / "ready" / "train-packs.npy").is_file()
    for dataset in ("chat.jsonl", "ready"):
        train(f"of-{dataset}", "--max_steps", "2", dataset=(dataset,))
    assert lines("of-ready") == lines("of-chat.jsonl")
    assert weights("of-ready", 2) == weights("of-chat.jsonl", 2)
    words = ["sft", *TRAIN, "--dataset", "ready", "--output_dir", "out", "--max_steps", "1", "--packing", "false"]
    assert main(words) == 65
    assert "was prepared with --packing true, and this run has --packing false" in capsys.readouterr().err
    assert main(["data", "prepare", "chat.jsonl", *how, "--output", "ready"]) == 0
    train("of-rows", "--max_steps", "2", dataset=("ready",))
    assert weights("of-rows", 2) == weights("of-chat.jsonl", 2)


def test_a_dry_run_tells_of_packs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", *TRAIN, "--dataset", "chat.jsonl", "--output_dir", "out", "--dry_run"]) == 0
    assert "% filled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--max_length", "-1"], "--packing needs --max_length"),
        (["--sft_type", "prompt_tuning"], "stand before a pack"),
        (["--sft_type", "longlora"], "groups of tokens"),
        (["--sft_type", "reft"], "ends of a prompt"),
        (["--acc_strategy", "sentence"], "which --packing puts together"),
        (["--lazy_tokenize"], "--lazy_tokenize and --packing exclude each other"),
    ],
)
def test_what_packs_cannot_do_is_said_first(here: Path, words: list[str], reason: str) -> None:
    with pytest.raises((ConfigError, SeveralErrors), match=reason):
        train("out", *words)


def test_late_rows_train_as_early_ones_do(here: Path) -> None:
    words = ["--packing", "false", "--max_steps", "21", "--save_steps", "21", "--eval_steps", "21"]
    words += ["--lora_dropout_p", "0", "--group_by_length", "false"]
    early = train("early", *words)
    late = train("late", *words, "--lazy_tokenize")
    assert lines("late") == lines("early")
    assert weights("late", 21) == weights("early", 21)
    assert late["dataset_info"] == early["dataset_info"]
    with pytest.raises(ConfigError, match="--lazy_tokenize and --streaming exclude each other"):
        train("out", *words, "--lazy_tokenize", "--streaming")


@pytest.mark.slow
def test_padding_is_counted(here: Path) -> None:
    words = ["--max_steps", "7", "--batch_size", "4", "--gradient_accumulation_steps", "1", "--logging_steps", "3"]
    plain = train("plain", *words, "--packing", "false")
    packed = train("packed", *words)
    assert min(plain["dataset_info"]["padded"], packed["dataset_info"]["padded"]) > 0
    again = train("again", *words, "--packing", "false", "--resume_from_checkpoint", "plain/checkpoint-4")
    assert again["dataset_info"]["padded"] == plain["dataset_info"]["padded"]
    alone = train("alone", *words, "--batch_size", "1")
    assert alone["dataset_info"]["padded"] == 0


@pytest.mark.slow
def test_padding_is_told_apart_by_data_set(here: Path) -> None:
    words = ["--max_steps", "7", "--batch_size", "4", "--gradient_accumulation_steps", "1", "--packing", "false"]
    rows = Path("chat.jsonl").read_text().splitlines(keepends=True)
    Path("one.jsonl").write_text("".join(rows[:20]))
    Path("other.jsonl").write_text("".join(rows[20:]))
    words += ["--save_steps", "4"]

    def told(name: str, *more: str) -> tuple[int, list[int]]:
        info = train(name, *words, *more, dataset=("one.jsonl", "other.jsonl"))["dataset_info"]
        return info["padded"], [account["padded"] for account in info["datasets"]]

    total, each = told("plain")
    assert sum(each) == total
    assert min(each) > 0
    assert told("again", "--resume_from_checkpoint", "plain/checkpoint-4") == (total, each)
    assert told("late", "--lazy_tokenize", "--group_by_length", "false") == told("early", "--group_by_length", "false")
    streamed, each = told("streamed", "--streaming", "--evaluation_strategy", "no")
    assert sum(each) == streamed
    assert min(each) > 0

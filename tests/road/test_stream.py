"""A streamed run through the command: what it trains on, that it goes on to the bit, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swift.commands.sft import sft_main
from swift.errors import ConfigError, DataError
from tests.road.conftest import conversations, write_jsonl

TRAIN = [
    "--model_id_or_path", "my-model", "--batch_size", "2",
    "--gradient_accumulation_steps", "2", "--eval_steps", "5", "--save_steps", "5", "--logging_steps", "1",
    "--learning_rate", "1e-2", "--add_output_dir_suffix", "false", "--streaming", "--streaming_buffer_size", "7",
]  # fmt: skip


def train(output: str, *words: str, dataset: str = "chat.jsonl") -> dict[str, Any]:
    return sft_main([*TRAIN, "--dataset", dataset, "--output_dir", output, *words])


def weights(run: str) -> bytes:
    return (Path(run) / "checkpoint-15" / "adapter_model.safetensors").read_bytes()


def test_a_stream_goes_on_to_the_bit(here: Path) -> None:
    words = ("--max_steps", "15", "--streaming_val_size", "4", "--save_total_limit", "-1")
    whole = train("whole", *words)
    assert whole["best_metric"] is not None
    account = whole["dataset_info"]
    assert account["rows_read"] == 40 == account["train"]["rows"] + account["validation"]["rows"]
    assert (account["train"]["examples"], account["validation"]["rows"]) == (60, 4)
    assert json.loads((here / "whole" / "data_report.json").read_text()) == account
    for step in (5, 10):  # within the first pass over the rows, and within the second
        resumed = train(f"again-{step}", *words, "--resume_from_checkpoint", f"whole/checkpoint-{step}")
        assert weights(f"again-{step}") == weights("whole")
        assert resumed["dataset_info"] == account
        epochs = [line["epoch"] for line in resumed["log_history"] if "loss" in line]
        assert epochs == [line["epoch"] for line in whole["log_history"] if "loss" in line]
    with pytest.raises(ConfigError, match="streaming_buffer_size was 7, is 8"):
        train("other", *words, "--streaming_buffer_size", "8", "--resume_from_checkpoint", "whole/checkpoint-5")
    (here / "whole" / "checkpoint-10" / "data_state.json").unlink()
    with pytest.raises(DataError, match="CKPT-01"):
        train("other", *words, "--resume_from_checkpoint", "whole/checkpoint-10")


def test_what_a_stream_cannot_do_is_said_first(here: Path) -> None:
    with pytest.raises(ConfigError, match="--streaming needs --max_steps"):
        train("out")
    with pytest.raises(ConfigError, match="--dataloader_num_workers 0"):
        train("out", "--max_steps", "2", "--dataloader_num_workers", "1")
    with pytest.raises(ConfigError, match="no end of an epoch"):
        train("out", "--max_steps", "2", "--save_strategy", "epoch")
    with pytest.raises(ConfigError, match="--streaming_val_size needs --streaming"):
        train("out", "--streaming", "false", "--streaming_val_size", "2")
    assert not (here / "out").exists()


def test_a_bad_row_ends_a_stream_with_its_line(here: Path) -> None:
    write_jsonl(here / "bad.jsonl", [*conversations(12), {"messages": [{"role": "user", "content": None}]}])
    words = ("--max_steps", "9", "--save_steps", "2", "--streaming_buffer_size", "4")
    with pytest.raises(DataError, match=r'bad\.jsonl:13: "messages\[0\]\.content" is null'):
        train("out", *words, dataset="bad.jsonl")
    assert (here / "out" / "checkpoint-2").is_dir()
    report = train("allowed", *words, "--max_bad_rows", "1", "--val_dataset", "chat.jsonl#4", dataset="bad.jsonl")
    assert report["dataset_info"]["bad_rows"] == [f'{here / "bad.jsonl"}:13: "messages[0].content" is null']
    assert [one["validation"]["rows"] for one in report["dataset_info"]["datasets"]] == [4, 0]


def test_a_dry_run_of_a_stream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = train("out", "--max_steps", "9", "--dry_run")
    assert (found["schedule"]["steps"], found["schedule"]["tokens"]) == (9, None)
    assert "steps: 9 (4 rows a step" in capsys.readouterr().out
    assert not (here / "out").exists()

"""A run leaves a receipt; done again from it, it gives the same numbers, or says which are others and what has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.arguments.verbs import RerunArguments
from swift.commands.receipt import KINDS
from swift.commands.rerun import describe, options_to_repeat, rerun_main
from swift.commands.sft import sft_main
from swift.errors import ConfigError, DataError, InternalError, NotFoundError

SAID = [
    "--model_id_or_path", "my-model", "--batch_size", "2", "--gradient_accumulation_steps", "2", "--eval_steps", "2",
    "--dataset_test_ratio", "0.2", "--logging_steps", "1", "--learning_rate", "1e-2", "--lora_dropout_p", "0.2",
]  # fmt: skip


def test_a_run_is_done_again_from_its_receipt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.jsonl").write_bytes((here / "chat.jsonl").read_bytes())
    common = [*SAID, "--dataset", "mine.jsonl", "--output_dir", "out", "--add_output_dir_suffix", "false"]
    sft_main([*common, "--max_steps", "4"])
    receipt = json.loads((here / "out" / "run.lock.json").read_text())
    assert [line["step"] for line in receipt["curve"] if "loss" in line] == [1, 2, 3, 4]
    assert len(receipt["order"]) == len(receipt["data"]["train"]) == len(receipt["template"]["tokenizer"]) == 64
    assert (here / "out" / "run.lock.json").stat().st_mode & 0o077 == 0
    capsys.readouterr()
    found = rerun_main(RerunArguments(receipt="out", json=True))
    assert found == json.loads(capsys.readouterr().out)
    assert (found["identical"], found["changed"], found["weights"]) == (True, {}, 1)
    assert (here / "rerun-of-out" / "checkpoint-4").is_dir()
    assert "identical (6 lines of the log, 1 file(s) of weights)" in describe(found)

    rows = (here / "mine.jsonl").read_text().replace("Paris", "Berlin")
    (here / "mine.jsonl").write_text(rows)
    with pytest.raises(InternalError, match="step 1: loss was") as caught:
        rerun_main(RerunArguments(receipt="out/run.lock.json", output_dir="again"))
    assert "not identical: step 1: loss was" in capsys.readouterr().out
    assert caught.value.code == "RUN-03"
    assert "data" in str(caught.value.why)
    assert (here / "again" / "run.lock.json").is_file()
    said = options_to_repeat(receipt["arguments"], None)
    assert Path(said.output_dir).match("rerun-of-out/v0-*")  # beside the first one, which stays


@pytest.mark.slow
def test_a_run_that_was_stopped_has_the_receipt_of_one_that_was_not(here: Path) -> None:
    common = [*SAID, "--dataset", "chat.jsonl", "--output_dir", "out", "--add_output_dir_suffix", "false"]
    sft_main([*common, "--max_steps", "4", "--save_total_limit", "-1"])
    whole = json.loads((here / "out" / "run.lock.json").read_text())
    for path in (here / "out" / "checkpoint-4").iterdir():
        path.unlink()
    sft_main([*common, "--max_steps", "4", "--save_total_limit", "-1", "--resume_from_checkpoint", "auto"])
    again = json.loads((here / "out" / "run.lock.json").read_text())
    assert again["curve"] == whole["curve"]
    assert again["weights"] == whole["weights"] != {}


def test_what_cannot_be_done_again_is_told(here: Path) -> None:
    with pytest.raises(NotFoundError):
        rerun_main(RerunArguments(receipt="nowhere.json"))
    facts = {**{name: kind() for name, kind in KINDS.items() if name != "order"}, "order": None}
    for text in ("", "[1", "7", "[]", '{"format": 2}', '{"format": 1}', json.dumps({"format": 1, **facts, "curve": 3})):
        (here / "bad.json").write_text(text)
        with pytest.raises(DataError, match=r"bad\.json is not") as bad:
            rerun_main(RerunArguments(receipt="bad.json"))
        assert bad.value.code == "RECEIPT-01"
    (here / "two.json").write_text(json.dumps({"format": 1, **facts, "world_size": 2}))
    with pytest.raises(ConfigError, match="had 2 processes") as caught:
        rerun_main(RerunArguments(receipt="two.json"))
    assert "NPROC_PER_NODE=2 swift rerun two.json" in str(caught.value.fix)


def test_no_secret_is_in_any_file_of_a_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [f"{kind}{'abcdefgh' * 4}{k}" for k, kind in enumerate(("hf_", "ms-", "wandb-", "sk-"))]
    for name, secret in zip(
        ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "WANDB_API_KEY", "SWIFT_API_KEY"), secrets, strict=True
    ):
        monkeypatch.setenv(name, secret)
    told = "open-sesame-17"  # looks like nothing; what it is said under tells
    said = ["--dataset", "chat.jsonl", "--output_dir", "out", "--max_steps", "1", "--resume_only_model", "false"]
    sft_main([*SAID, *said, "--training_options", json.dumps({"hub_token": told})])
    files = [path for path in (here / "out").rglob("*") if path.is_file()]
    assert {"run.lock.json", "sft_args.json", "manifest.json", "logging.jsonl"} <= {path.name for path in files}
    found = [str(path) for path in files for secret in (*secrets, told) if secret.encode() in path.read_bytes()]
    assert found == []

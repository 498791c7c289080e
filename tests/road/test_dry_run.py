"""A dry run: right about the run to come, nothing written, no weights read, and the exit code of what is wrong."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swift.arguments.sft import SftArguments
from swift.cli import main
from swift.commands import dry_run as module
from swift.commands import pictures, sft
from swift.commands.dry_run import dry_run, launch_line, without_dry_run
from swift.commands.estimates import Size
from swift.commands.sft import sft_main
from swift.errors import SeveralErrors, UnknownNameError
from swift.trainers.simulated import UnknownStepError
from tests.road.conftest import conversations, write_jsonl

SFT = ["sft", "--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--dry_run"]
NAMES = "NPROC_PER_NODE NNODES NODE_RANK MASTER_ADDR MASTER_PORT USE_HF RANK LOCAL_RANK WORLD_SIZE NO_COLOR COLUMNS"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES.split():
        monkeypatch.delenv(name, raising=False)


def everything_in(place: Path) -> set[tuple[str, int, int]]:
    return {(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in place.rglob("*") if not p.is_symlink()}


def test_nothing_is_written_and_no_weights_are_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swift.commands.ready.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    monkeypatch.setattr("swift.models.load.load_model", lambda *a, **k: pytest.fail("weights were loaded"))
    (here / "output" / "my-model" / ".tmp-checkpoint-1-999999").mkdir(parents=True)
    before = everything_in(here)
    assert main([*SFT, "--resume_from_checkpoint", "auto"]) == 0
    assert everything_in(here) == before
    assert "to run it:  swift sft --model_id_or_path my-model --dataset chat.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--batch_size", "2", "--gradient_accumulation_steps", "3"],
        ["--batch_size", "3", "--gradient_accumulation_steps", "2", "--num_train_epochs", "1.5"],
        ["--batch_size", "4", "--gradient_accumulation_steps", "4", "--dataloader_drop_last", "true"],
        ["--batch_size", "2", "--max_steps", "3", "--sft_type", "full", "--freeze_parameters", "0.5"],
        ["--batch_size", "16", "--sft_type", "adapter", "--training_options", "max_steps=2"],
    ],
)
def test_the_run_is_as_was_said(words: list[str], here: Path) -> None:
    common = ["--model_id_or_path", "my-model", "--dataset", "chat.jsonl#24", "--dataset_test_ratio", "0", *words]
    told = sft_main([*common, "--dry_run"])
    done = sft_main([*common, "--output_dir", "run"])
    assert told["schedule"]["steps"] == done["global_step"]
    unpadded = done["dataset_info"] | {"padded": None}
    unpadded["datasets"] = [account | {"padded": None} for account in unpadded["datasets"]]
    assert told["dataset_info"] == unpadded
    assert f"{told['size']['parameters'] / 1e6:.4f}M parameters" in done["model_info"]
    assert f"({told['size']['trainable'] / 1e6:.4f}M trainable" in done["model_info"]
    saved = Path(done["last_model_checkpoint"])
    weights = sum(path.stat().st_size for path in saved.rglob("*.safetensors"))
    frozen = "--freeze_parameters" in words
    mine = told["size"]["weight_bytes"] if frozen else told["size"]["gradient_bytes"]
    assert mine <= weights <= mine + 8192


def test_the_optimiser_takes_what_was_said(here: Path) -> None:
    common = ["--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--max_steps", "1"]
    size = sft_main([*common, "--dry_run"])["size"]
    checkpoint = Path(sft_main(common)["last_model_checkpoint"])
    state = (checkpoint / "optimizer.pt").stat().st_size
    assert size["optimiser_bytes"] <= state <= size["optimiser_bytes"] + 65536
    assert size["checkpoint_bytes"] == size["gradient_bytes"] + size["optimiser_bytes"]


def test_tokens_and_rows(here: Path) -> None:
    plan = sft_main(
        ["--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--num_train_epochs", "2", "--dry_run"]
    )
    assert plan["schedule"]["rows_per_step"] == 16
    assert plan["schedule"]["epochs"] == 2
    assert 0 < plan["schedule"]["supervised"] < plan["schedule"]["tokens"]


def test_every_option_says_where_it_came_from(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run.yaml").write_text("lora_rank: 4\nper_device_train_batch_size: 2\nlora_alpha: 8\n")
    told = dry_run_of([*SFT[1:], "--config", "run.yaml", "--lora-alpha", "16"])
    origins = told["origins"]
    assert set(origins) == set(told["options"])
    assert origins["lora_rank"] == "run.yaml:1"
    assert origins["batch_size"] == "run.yaml:2"
    assert origins["lora_alpha"] == origins["dataset"] == "command line"
    assert origins["learning_rate"] == origins["gradient_accumulation_steps"] == origins["output_dir"] == "decided"
    assert origins["weight_decay"] == origins["seed"] == "default"
    text = capsys.readouterr().out
    assert re.search(r"^  lora_rank +4 +run\.yaml:1$", text, re.M)
    assert re.search(r"^  learning_rate +0\.0001 +decided$", text, re.M)
    assert "weight_decay=0.1" in text
    assert (
        dry_run(SftArguments(model_id_or_path="my-model", dataset=["chat.jsonl"], lora_rank=4))["origins"]["lora_rank"]
        == "said"
    )


def dry_run_of(words: list[str]) -> dict[str, Any]:
    return sft_main(words)


@pytest.mark.parametrize(
    ("words", "code"),
    [([], 0), (["--batch_size", "3"], 78), (["--seed", "7"], 78), (["--dataset", "chat.jsonl#20"], 78)],
)
def test_a_run_that_could_not_go_on_exactly_is_told(
    words: list[str], code: int, here: Path, run: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    last = run["last_model_checkpoint"]
    common = (
        "--model_id_or_path my-model --batch_size 2 --gradient_accumulation_steps 2 --dataset_test_ratio 0.1 "
        "--max_steps 4 --learning_rate 1e-2 --lora_target_modules ALL"
    ).split()
    said = ["--dataset", "chat.jsonl"] if "--dataset" not in words else []
    assert main(["sft", *common, *said, *words, "--resume_from_checkpoint", last, "--dry_run"]) == code
    assert ("would not be exact" in capsys.readouterr().err) is (code == 78)


def test_what_is_resumed_comes_from_the_checkpoint(here: Path) -> None:
    common = [*SFT[1:-1], "--max_steps", "1"]
    last = sft_main(common)["last_model_checkpoint"]
    told = dry_run_of([*common, "--resume_from_checkpoint", "auto", "--dry_run"])
    assert told["options"]["resume_from_checkpoint"] == last
    assert told["options"]["output_dir"] == str(Path(last).parent)
    assert told["origins"]["output_dir"] == told["origins"]["resume_from_checkpoint"] == "checkpoint"
    told = dry_run_of([*common, "--resume_from_checkpoint", last, "--resume_only_model", "true", "--dry_run"])
    assert told["size"] is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--lora_rank", "0"], 2, ["below its minimum"]),
        (["--dataset", "nothing.jsonl"], 66, ["nothing.jsonl does not exist"]),
        (["--max_length", "5"], 65, ["no row is left to train on", "to run it"]),
        (["--output_dir", "chat.jsonl/out"], 73, ["nothing can be made in"]),
        (["--sft_type", "full", "--dtype", "fp16"], 78, ["needs a GPU"]),
        (["--lora_target_modules", "no_proj"], 2, ["no_proj", "did you mean o_proj"]),
        (["--loss_name", "x", "--metrics", "y", "--callbacks", "z"], 2, ["no loss", "no metric", "no callback"]),
        (["--training_options", "no_such=1"], 2, ["no training argument"]),
        (["--template_type", "nothing"], 2, ["no template"]),
        (["--resume_from_checkpoint", "my-model"], 65, ["cannot be gone on from"]),
        (
            ["--max_length", "5", "--loss_name", "x", "--output_dir", "chat.jsonl/out"],
            73,
            ["nothing can", "no row", "no loss"],
        ),
    ],
)
def test_the_exit_code_is_that_of_what_is_wrong(
    words: list[str], code: int, says: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SFT, *words]) == code
    out, err = capsys.readouterr()
    for text in says:
        assert text in out + err
    assert "Traceback" not in err


def test_a_full_disk_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swift.storage.free_bytes", lambda path: 1000)
    assert main(SFT) == 74


def test_bad_rows_are_told_with_everything_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": [{"role": "user", "content": None}]}, *conversations(4)]
    write_jsonl(here / "bad.jsonl", rows)
    assert main(["sft", "--model_id_or_path", "my-model", "--dataset", "bad.jsonl", "--dry_run"]) == 65
    assert "bad.jsonl:1" in capsys.readouterr().err


def test_processes_are_counted_and_not_started(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("NODE_RANK", "0")
    monkeypatch.setattr("swift.agent.run_workers", lambda *a: pytest.fail("processes were started"))
    machines: list[Any] = []
    monkeypatch.setattr("swift.agent.check_machine", machines.append)
    assert main([*SFT, "--batch_size", "2"]) == 0
    assert [plan.processes for plan in machines] == [2]
    text = capsys.readouterr().out
    assert "16 rows a step over 4 processes" in text
    assert "to run it:  NPROC_PER_NODE=2 NNODES=2 NODE_RANK=0 swift sft --model_id_or_path" in text


def test_only_the_main_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    assert dry_run(SftArguments()) == {}
    assert capsys.readouterr().out == ""


def test_the_line_that_runs_it() -> None:
    assert without_dry_run(["--dry_run", "--a", "1", "--dry-run=true", "--dry_run", "true", "b"]) == ["--a", "1", "b"]
    said = SftArguments(dataset=["a b.jsonl"], use_dora=True, dry_run=True, training_options={"a": 1})
    assert launch_line(said, None) == "swift sft --dataset 'a b.jsonl' --use_dora true --training_options a=1"
    secret = "hf_" + "a" * 30
    assert secret not in launch_line(said, ["--system", f"the token is {secret}"])


@pytest.mark.parametrize(
    "words",
    [["--training_options", "hub_token=opensesame"], ["--training_options", '{"hub_token": "opensesame", "a": 1}']],
)
def test_secrets_are_not_in_it(words: list[str]) -> None:
    shown = launch_line(SftArguments(), words)
    assert "opensesame" not in shown
    assert "hub" in shown


@pytest.mark.parametrize("words", [["--hub-token", "opensesame"], ["--hub_token=opensesame"]])
def test_nor_is_the_option_of_the_token_which_the_line_would_send_as_stars(words: list[str]) -> None:
    assert launch_line(SftArguments(), [*words, "--seed", "1"]) == "swift sft --seed 1"
    assert launch_line(SftArguments(hub_token="opensesame", seed=1), None) == "swift sft --seed 1"


def test_a_file_that_asks_for_the_dry_run_is_overruled(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run.yaml").write_text("model_id_or_path: my-model\ndataset: chat.jsonl\ndry_run: true\n")
    assert main(["sft", "run.yaml"]) == 0
    assert "to run it:  swift sft run.yaml --dry_run false\n" in capsys.readouterr().out
    assert not (here / "output").exists()


INPUTS = {"input_ids": [1, 355, 2, 204, 204], "labels": [-100, -100, 2, 2, -100]}


def test_a_row_is_marked_by_its_loss_mask(tokenizer: Any) -> None:
    plain = pictures.row_text(INPUTS, tokenizer, colour=False)
    assert plain == "  <|im_start|>user⟦<|im_end|><|im_end|>⟧\n"
    coloured = pictures.row_text(INPUTS, tokenizer, colour=True)
    assert f"{pictures.GREEN}<|im_end|><|im_end|>{pictures.END}" in coloured
    assert pictures.OPEN not in coloured
    tokens = pictures.row_tokens(INPUTS, tokenizer, colour=False)
    assert tokens == "  1'<|im_start|>' 355'user' *2'<|im_end|>' *204'\\n'→2'<|im_end|>' 204'\\n'"
    assert f"{pictures.GREEN}2'<|im_end|>'{pictures.END}" in pictures.row_tokens(INPUTS, tokenizer, colour=True)


def test_a_long_row_is_shown_where_it_is_learnt(tokenizer: Any) -> None:
    ids, labels = [355] * 2000, [-100] * 1500 + [355] * 500
    text = pictures.row_tokens({"input_ids": ids, "labels": labels}, tokenizer, colour=False)
    assert text.endswith("(tokens 1,441 to 1,680 of 2,000)")
    assert text.count("*") == 180
    assert " […] " in pictures.row_text({"input_ids": ids, "labels": labels}, tokenizer, colour=False)


def test_the_tokens_say_what_the_text_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(
        here / "plain.jsonl", [{"query": "Who's there?\nSay.", "response": f"It is {i}.\n\nYes."} for i in range(4)]
    )
    assert main(["sft", "--model_id_or_path", "my-model", "--dataset", "plain.jsonl", "--dry_run"]) == 0
    text = capsys.readouterr().out.partition("One row")[2]
    marked = re.findall(r"⟦(.*?)⟧", text.partition("its tokens")[0], re.S)[1:]
    pieces = re.findall(r"\*\d+('(?:[^'\\]|\\.)*')", text.partition("a *")[2])
    assert [ast.literal_eval(piece) for piece in pieces][-1] == "<|im_end|>"
    assert "".join(map(ast.literal_eval, pieces)) == "".join(part.replace("\n  ", "\n") for part in marked)


@pytest.mark.parametrize(
    ("terminal", "env", "wanted"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colour_is_for_terminals(terminal: bool, env: dict, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pictures.sys.stdout, "isatty", lambda: terminal, raising=False)
    assert pictures.wants_colour() is wanted


@pytest.mark.parametrize("lengths", [[5], [5, 5, 6], list(range(10, 500, 7)), [1, 100000]])
def test_a_histogram_counts_every_row_once(lengths: list[int]) -> None:
    lines = [line.split() for line in pictures.histogram(lengths)]
    assert 1 <= len(lines) <= pictures.BINS
    assert sum(int(line[1].replace(",", "")) for line in lines) == len(lengths)
    for line in lines:
        least, _, most = line[0].replace(",", "").partition("-")
        inside = sum(int(least) <= length <= int(most or least) for length in lengths)
        assert inside == int(line[1].replace(",", ""))
    assert max(len(line[2]) for line in lines if len(line) > 2) == pictures.BAR


def test_sizes_in_words() -> None:
    assert [pictures.size(n) for n in (5, 3 << 10, 5 << 20, 3 << 29)] == ["5 bytes", "3.0 KiB", "5.0 MiB", "1.5 GiB"]


def test_memory_is_told_by_part(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SFT) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  memory: about"))
    assert all(f"{part} " in line for part in ("weights", "gradients", "optimiser", "activations", "gaps"))


def test_too_little_memory_and_unknown_sizes_are_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swift.commands.dry_run_text.free_memory", lambda: 1000)

    def unknown(*args: object) -> None:
        raise UnknownStepError("it reads numbers")

    monkeypatch.setattr("swift.commands.estimates.simulate", unknown)
    assert main([*SFT, "--optim", "adafactor"]) == 0
    text = capsys.readouterr().out
    assert "warning: only 1000 bytes of memory are free" in text
    assert "disk: not estimated" in text
    assert "optimiser" not in text.partition("memory: at least")[2].partition("\n")[0]
    assert Size(2, 1, 8, 4, None, None).memory_bytes == 12
    config = json.loads((here / "my-model" / "config.json").read_text())
    assert not config.get("quantization_config")
    quantised = replace(sft.SFT, unsized=lambda args, source: "the model is quantised")
    monkeypatch.setattr(module, "task_of", lambda args: quantised)
    assert main(SFT) == 0
    assert "not estimated, the model is quantised" in capsys.readouterr().out


def test_python_gets_every_error(here: Path) -> None:
    args = SftArguments(model_id_or_path="my-model", dataset=["chat.jsonl"], loss_name="x", metrics=["y"], dry_run=True)
    with pytest.raises(SeveralErrors) as caught:
        sft_main(args)
    assert [error.code for error in caught.value.errors] == ["USAGE-04", "USAGE-04"]
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownNameError):
        sft_main(args, loss_name=None, metrics=[], lora_target_modules=["no_proj"])


def test_evaluations_and_checkpoints_by_epoch_or_share(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SFT, "--evaluation_strategy", "epoch", "--save_strategy", "no"]) == 0
    assert "evaluation: every epoch; checkpoint: never" in capsys.readouterr().out
    assert main([*SFT, "--max_steps", "40", "--training_options", "eval_steps=0.25"]) == 0
    assert "evaluation: every 10 steps" in capsys.readouterr().out

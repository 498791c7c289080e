from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swift.cli import main
from swift.datasets import DATASETS
from tests.documents import ROOT
from tests.road.conftest import conversations, write_jsonl


@pytest.fixture
def here(tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory with my-model and chat.jsonl in it."""
    shutil.copytree(tiny_dir, tmp_path / "my-model")
    write_jsonl(tmp_path / "chat.jsonl", conversations(40))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


MODEL = ["--model_id_or_path", "my-model"]


def test_preview_shows_rows_masks_lengths_and_the_account(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--rows", "2", "--output", "seen"]) == 0
    shown = capsys.readouterr().out
    assert "Rows (2 drawn at random)" in shown
    assert "assistant: The capital is" in shown
    assert "⟦The capital is" in shown
    assert "Tokens per row: " in shown
    assert "###" in shown
    assert "rows: 40 read = 40 trained + 0 validation" in shown
    page = (here / "seen" / "preview.html").read_text(encoding="utf-8")
    assert page.count("<mark>") >= 3
    assert "The capital is" in page.partition("As the model meets them")[2]
    assert "data:image/png;base64," in page
    assert (here / "seen" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((here / "seen" / "data_report.json").read_text())["rows_read"] == 40
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--rows", "2"]) == 0
    assert capsys.readouterr().out.startswith(shown.partition("written")[0][:200])


def test_preview_escapes_what_rows_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    row = {"messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]}
    write_jsonl(here / "evil.jsonl", [row] * 3)
    assert main(["data", "preview", "evil.jsonl", *MODEL, "--output", "seen"]) == 0
    assert "\x1b[2J" not in capsys.readouterr().out
    page = (here / "seen" / "preview.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_preview_shows_weights_calls_and_the_lines_that_are_dropped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
    ask = {"role": "user", "content": "What is it?"}
    rows = [
        {"messages": [ask, {"role": "assistant", "content": "A cat.", "loss": 2.5}]},
        {"messages": [ask, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "purr"}, {"role": "assistant", "content": "A cat."}], "tools": [call]},
        {"messages": [ask]},
        {"messages": [ask, {"role": "assistant", "content": "Cat, cat, cat. " * 99}]},
    ]  # fmt: skip
    write_jsonl(here / "odd.jsonl", rows)
    words = [
        "--rows",
        "9",
        "--output",
        "seen",
        "--max_bad_rows",
        "1",
        "--max_length",
        "1000",
        "--template_type",
        "qwen",
    ]
    assert main(["data", "preview", "odd.jsonl", *MODEL, *words]) == 0
    shown = capsys.readouterr().out
    assert "⟦2.5× A cat." in shown
    assert '"name": "look"' in shown.partition("As the model")[0]
    page = (here / "seen" / "preview.html").read_text(encoding="utf-8")
    assert '<mark class="weighed" title="weight 2.5">A cat.' in page
    file = str(here / "odd.jsonl")
    assert f"<td>bad row</td><td>1</td><td>{file}</td><td>3</td>" in page
    assert f"<td>longer than 1000 tokens</td><td>1</td><td>{file}</td><td>4</td>" in page
    assert f"{file}:3: &quot;messages&quot; ends with the user" in page
    assert f"longer than 1000 tokens: {file}:4" in shown


def test_preview_tells_rows_that_are_too_long(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--max_length", "45", "--rows", "40"]) == 0
    shown = capsys.readouterr().out
    assert "dropped: longer than 45 tokens" in shown
    assert "longer than 45 tokens" in shown


@pytest.mark.slow
def test_the_preview_has_its_picture_taken(here: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not shutil.which("chromium"):
        pytest.skip("there is no Chromium on this machine")
    script = [sys.executable, str(ROOT / "scripts" / "screenshot.py"), "--page", "preview", "--output", "page.png"]
    subprocess.run(script, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=200)
    assert (here / "page.png").stat().st_size > 20_000


def test_what_is_missing_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "chat.jsonl", *MODEL]) == 2
    assert "--output is missing" in capsys.readouterr().err
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--output", "chat.jsonl"]) == 73
    assert "chat.jsonl is a file" in capsys.readouterr().err
    assert main(["data"]) == 2
    assert "--action is missing" in capsys.readouterr().err
    assert main(["data", "preview", *MODEL]) == 2
    assert "--dataset is missing" in capsys.readouterr().err


TRAIN = ["sft", *MODEL, "--max_steps", "1", "--batch_size", "2", "--add_output_dir_suffix", "false"]


def first_loss(output: str) -> float:
    lines = (Path(output) / "logging.jsonl").read_text().splitlines()
    return next(json.loads(line)["loss"] for line in lines if "loss" in json.loads(line))


def report(output: str) -> dict:
    return json.loads((Path(output) / "data_report.json").read_text())


def test_training_from_prepared_rows_is_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", "chat.jsonl", *MODEL, "--output", "ready"]) == 0
    assert "rows: 40 read = 39 trained + 1 validation" in capsys.readouterr().out
    assert main([*TRAIN, "--dataset", "chat.jsonl", "--output_dir", "plain", "--data_cache", "false"]) == 0
    assert main([*TRAIN, "--dataset", "ready", "--output_dir", "prepared"]) == 0
    assert first_loss("plain") == first_loss("prepared")
    one, other = report("plain"), report("prepared")
    assert {**one, "padded": 0} == {**other, "padded": 0}
    assert main(["data", "prepare", "chat.jsonl", *MODEL, "--output", "ready"]) == 0  # replaced
    assert main(["data", "prepare", "chat.jsonl", *MODEL, "--output", "my-model"]) == 73


def asked(output: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The questions that a run held out, which inference asks again; from another directory, so that paths hold."""
    here = Path.cwd()
    (here / "elsewhere").mkdir(exist_ok=True)
    os.chdir(here / "elsewhere")
    words = [
        "infer",
        "--ckpt_dir",
        f"../{output}",
        "--load_dataset_config",
        "--max_new_tokens",
        "2",
        "--result_dir",
        ".",
    ]
    assert main(words) == 0
    os.chdir(here)
    answers = sorted((here / "elsewhere").glob("**/*.jsonl"), key=lambda path: path.stat().st_mtime)[-1]
    return [json.loads(line)["query"] for line in answers.read_text(encoding="utf-8").splitlines()]


def test_inference_finds_the_rows_that_prepared_ones_were_made_of(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "chat.jsonl", *MODEL, "--output", "ready"]) == 0
    assert main([*TRAIN, "--dataset", "ready", "--output_dir", "prepared"]) == 0
    assert main([*TRAIN, "--dataset", "chat.jsonl", "--output_dir", "plain"]) == 0
    assert asked("prepared", capsys) == asked("plain", capsys) != []
    for words in (["infer", "--max_new_tokens", "2"], ["data", "preview"]):
        assert main([*words, "--dataset", "ready", *MODEL]) == 2
        assert "ready holds encoded rows, not conversations" in capsys.readouterr().err


def test_inference_knows_the_data_sets_that_training_was_told_of(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "info.json").write_text('{"mine-alone": {"dataset_path": "chat.jsonl"}}', encoding="utf-8")
    words = ["--custom_dataset_info", "info.json", "--dataset", "mine-alone"]
    assert main([*TRAIN, *words, "--output_dir", "told"]) == 0
    monkeypatch.delitem(DATASETS._records, "mine-alone")
    assert len(asked("told", capsys)) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--dataset", "ready", "--max_length", "100"],
            "was prepared with --max_length 2048, and this run has --max_length 100",
        ),
        (
            ["--dataset", "ready", "--system", "Be brief."],
            "was prepared with no --system, and this run has --system 'Be brief.'",
        ),
        (["--dataset", "ready", "chat.jsonl"], "nothing can be added"),
    ],
)
def test_prepared_rows_that_do_not_fit_are_refused(
    here: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "chat.jsonl", *MODEL, "--output", "ready"]) == 0
    assert main([*TRAIN, *words, "--output_dir", "out"]) in (2, 65)
    assert reason in capsys.readouterr().err


def test_prepared_rows_go_stale_and_foreign(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tiny import save_tiny

    assert main(["data", "prepare", "chat.jsonl", *MODEL, "--output", "ready"]) == 0
    save_tiny(here / "other", extra_special=("<|more|>",))
    words = ["sft", "--dataset", "ready", "--output_dir", "out", "--max_steps", "1", "--model_id_or_path"]
    assert main([*words, "other"]) == 65
    assert "was prepared for another tokenizer" in capsys.readouterr().err
    write_jsonl(here / "chat.jsonl", conversations(39))
    assert main([*words, "my-model"]) == 65
    assert "chat.jsonl has changed since" in capsys.readouterr().err
    (here / "chat.jsonl").unlink()
    assert main([*words, "my-model"]) == 0
    data = bytearray((here / "ready" / "train.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (here / "ready" / "train.arrow").write_bytes(data)
    assert main([*words, "my-model"]) == 65
    assert "is damaged" in capsys.readouterr().err


def entries(here: Path) -> list[Path]:
    return sorted((here / "hf" / "swift" / "rows").glob("*"))


def test_rows_are_kept_and_found_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TRAIN, "--dataset", "chat.jsonl", "--output_dir"]
    assert main([*words, "off", "--data_cache", "false"]) == 0
    assert not entries(here)
    assert main([*words, "one"]) == 0
    assert len(entries(here)) == 1
    with monkeypatch.context() as patch:
        patch.setattr("swift.commands.rows.load_datasets", lambda *a, **o: pytest.fail("read again"))
        assert main([*words, "two"]) == 0
    assert report("off") == report("one") == report("two")
    assert first_loss("off") == first_loss("one") == first_loss("two")
    assert main([*words, "three", "--max_length", "60"]) == 0
    assert len(entries(here)) == 2
    rows = conversations(40)
    rows[5]["messages"][1]["content"] = "Something else. "
    stat = (here / "chat.jsonl").stat()
    write_jsonl(here / "chat.jsonl", rows)
    os.utime(here / "chat.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert main([*words, "four"]) == 0
    assert len(entries(here)) == 3


def test_a_cache_that_cannot_be_written_stops_nobody(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    (here / "hf").write_text("a file")
    assert main([*TRAIN, "--dataset", "chat.jsonl", "--output_dir", "out"]) == 0
    assert "are not kept for the next run" in caplog.text
    assert report("out")["rows_read"] == 40

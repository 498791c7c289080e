"""What `swift sft` refuses before it loads a model, and what it then leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift import checkpoint
from swift.arguments.sft import SftArguments
from swift.commands.run import what_is_saved
from swift.commands.sft import sft_main
from swift.errors import DataError, NotFoundError, OutputError, SeveralErrors


def test_a_run_that_never_began_leaves_no_directory(tiny_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "a"', encoding="utf-8")
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "bad.jsonl")]
    with pytest.raises(DataError):
        sft_main([*words, "--output_dir", str(tmp_path / "out")])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_that_the_user_made_stays(tiny_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("[1]\n", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "bad.jsonl")]
    with pytest.raises(DataError):
        sft_main([*words, "--output_dir", str(tmp_path / "mine"), "--add_output_dir_suffix", "false"])
    assert (tmp_path / "mine").is_dir()


def test_a_directory_with_the_checkpoints_of_another_run_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "ok.jsonl").write_text(json.dumps({"query": "a", "response": "b"}), encoding="utf-8")
    with checkpoint.save(checkpoint.directory_of(tmp_path / "out", 3), {}) as stage:
        (stage / "a").touch()
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "ok.jsonl"), "--max_steps", "1"]
    with pytest.raises(OutputError, match="checkpoints of another run"):
        sft_main([*words, "--output_dir", str(tmp_path / "out"), "--add_output_dir_suffix", "false"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-3"]


def test_a_missing_model_and_missing_data_are_said_at_once(tmp_path: Path) -> None:
    words = ["--model_id_or_path", str(tmp_path / "none"), "--dataset", str(tmp_path / "a.csv"), "self-cogntion"]
    with pytest.raises(SeveralErrors) as caught:
        sft_main([*words, "--output_dir", str(tmp_path / "out")])
    assert caught.value.exit_code == 66
    said = str(caught.value)
    assert said.index("none is not a directory") < said.index("a.csv does not exist") < said.index("self-cogntion")
    assert not (tmp_path / "out").exists()


def test_missing_data_alone_keeps_its_class(tiny_dir: Path, tmp_path: Path) -> None:
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "a.csv")]
    with pytest.raises(NotFoundError):
        sft_main([*words, "--output_dir", str(tmp_path / "out")])
    (tmp_path / "ok.jsonl").write_text(json.dumps({"query": "a", "response": "b"}), encoding="utf-8")
    with pytest.raises(NotFoundError):
        sft_main(["--model_id_or_path", str(tmp_path / "none"), "--dataset", str(tmp_path / "ok.jsonl")])


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_stopped_run_says_what_is_saved(
    end: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = SftArguments(output_dir=str(tmp_path))
    with pytest.raises(end), what_is_saved(args):
        raise end
    assert "nothing was saved" in caplog.text
    with checkpoint.save(checkpoint.directory_of(tmp_path, 3), {}) as stage:
        (stage / "a").touch()
    with pytest.raises(end), what_is_saved(args):
        raise end
    assert f"last checkpoint: {tmp_path / 'checkpoint-3'}" in caplog.text


def test_a_run_that_was_over_keeps_its_last_checkpoint(tiny_dir: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"query": f"a{i}", "response": "b"}) for i in range(40)]
    (tmp_path / "ok.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "ok.jsonl"), "--max_steps", "1"]
    last = sft_main([*words, "--output_dir", str(tmp_path)])["last_model_checkpoint"]
    again = sft_main([*words, "--output_dir", str(tmp_path), "--resume_from_checkpoint", last])
    assert (again["last_model_checkpoint"], again["global_step"]) == (last, 1)

"""A disk that takes no more, under every writer of ours that is not a checkpoint: 74, and nothing half written."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from swift import dist, storage
from swift.arguments.data_verbs import DataArguments
from swift.arguments.sft import SftArguments
from swift.commands.data import prepare
from swift.commands.export import export_main
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_source, load_template
from swift.commands.ready import read_data
from swift.datasets.digest import digest_of_rows
from swift.decide import decide_sft
from swift.errors import SwiftError
from swift.llm import ExportArguments
from tests.trainers.rows import lora, trainer_of

UNEXPECTED = 70


def on_a_disk_of(limit_bytes: int, work: Callable[[], object]) -> int:
    """The exit code of `work` in a child of which no file grows beyond a limit, as on a disk that is full then."""
    child = os.fork()
    if not child:
        code = UNEXPECTED
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
            work()
            code = 0
        except SwiftError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("limit", [0, 2_000, 60_000])
def test_a_merge(limit: int, tiny_dir: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_dir), LoraConfig(r=4, target_modules=["q_proj"]))
    tuned.save_pretrained(tmp_path / "lora")
    args = ExportArguments(ckpt_dir=str(tmp_path / "lora"), model_id_or_path=str(tiny_dir))
    before = content(tmp_path)
    assert on_a_disk_of(limit, lambda: merge_lora(args)) == 74
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
    merge_lora(args)
    whole = content(tmp_path)
    assert on_a_disk_of(limit, lambda: merge_lora(args, replace_if_exists=True)) == 74
    assert content(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 2_000, 150_000])
@pytest.mark.parametrize(
    ("package", "asked"), [("gguf", {"to_gguf": "f16"}), ("bitsandbytes", {"quant_method": "bnb", "quant_bits": 4})]
)
def test_other_files_of_a_model(
    limit: int, package: str, asked: dict[str, Any], tiny_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    place = str(tmp_path / "out")
    said = {"model_id_or_path": str(tiny_dir), "output_dir": place, "quant_output_dir": place, **asked}
    assert on_a_disk_of(limit, lambda: export_main(ExportArguments(**said))) == 74
    assert not list(tmp_path.iterdir())
    export_main(ExportArguments(**said))
    assert not storage.verify(place)


@pytest.mark.parametrize("limit", [0, 1_000])
def test_rows_that_are_prepared(limit: int, tiny_dir: Path, tmp_path: Path) -> None:
    rows = [{"query": f"question {i}", "response": "an answer " * 9} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = {"dataset": [str(tmp_path / "rows.jsonl")], "model_id_or_path": str(tiny_dir)}
    args = DataArguments(action="prepare", output=str(tmp_path / "ready"), **said)
    assert on_a_disk_of(limit, lambda: prepare(args)) == 74
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert prepare(args)["rows_read"] == 40


@pytest.mark.parametrize("limit", [0, 1_000, 20_000])
def test_rows_that_are_kept_for_the_next_run(
    limit: int, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not what the run is for: it goes on with the same rows, and nothing of them stays."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    rows = [{"query": f"question {i}", "response": "an answer " * 90} for i in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    args = SftArguments(dataset=[str(tmp_path / "rows.jsonl")], model_id_or_path=str(tiny_dir))
    args = decide_sft(args, dist.Hardware(), find_source(args))
    template = load_template(args, find_source(args))
    whole = digest_of_rows(read_data(replace(args, data_cache=False), template).train)

    def reads() -> None:
        assert digest_of_rows(read_data(args, template).train) == whole

    assert on_a_disk_of(limit, reads) == 0
    assert not content(tmp_path / "home")
    assert on_a_disk_of(1 << 30, reads) == 0
    assert content(tmp_path / "home")
    reads()


def test_the_log_of_a_run(tmp_path: Path) -> None:
    run = trainer_of(lora(), tmp_path, max_steps=6)
    assert on_a_disk_of(400, run.train) == 74
    cut = (tmp_path / "logging.jsonl").read_bytes()
    assert 0 < len(cut) <= 400
    assert [path.name for path in tmp_path.iterdir()] == ["logging.jsonl"]
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "logging.jsonl").read_text().splitlines()]
    assert [line["global_step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]

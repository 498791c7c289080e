"""Every option of a teacher changes something, and what contradicts itself is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from swift import dist
from swift.arguments.fields import options_of
from swift.arguments.gkd import DistillationOptions
from swift.arguments.rlhf import RLHFArguments
from swift.cli import main
from swift.commands import gkd, prepare
from swift.commands.task import task_of
from swift.distillation.decide import decide_gkd
from swift.distillation.divergence import divergences
from swift.errors import SeveralErrors, SwiftError
from tests.preference.conftest import pair, write
from tests.tiny import tiny_model

Observe = Callable[[RLHFArguments], Any]


def decided(args: RLHFArguments) -> RLHFArguments:
    return decide_gkd(args, dist.Hardware(), prepare.find_source(args))


def given(args: RLHFArguments) -> Any:
    """What the trainer is given, and which models were asked for."""
    args = decided(args)
    asked: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        known = prepare.find_source(replace(args, model_id_or_path=str(PLACE["tiny"]), model_revision=None))
        patch.setattr(
            gkd, "find_source", lambda args: asked.append((args.model_id_or_path, args.model_revision)) or known
        )
        patch.setattr(gkd, "load_base", lambda *_: tiny_model("qwen2"))
        patch.setattr(gkd, "digest_of", str)
        patch.setattr(gkd.Swift, "from_pretrained", lambda model, directory: model)
        found = gkd.further(args, known, tiny_model("qwen2"), None)  # type: ignore[arg-type]
    return asked, found


def loss(args: RLHFArguments) -> float:
    draw = torch.Generator().manual_seed(0)
    return float(divergences(*(torch.randn(3, 5, generator=draw) for _ in range(2)), given(args)[1]["settings"]).sum())


PLACE: dict[str, Path] = {}
ROWS: dict[str, tuple[Any, Observe]] = {
    "teacher_model": ("other", lambda args: given(args)[0]),
    "teacher_model_revision": ("v2", lambda args: given(args)[0]),
    "teacher_adapters": ("checkpoint-1", lambda args: given(args)[1]["teacher"].told()),
    "distill_temperature": (2.0, loss),
    "beta": (0.1, loss),
    "lmbda": (0.2, lambda args: given(args)[1]["answers"].own),
    "seq_kd": (True, lambda args: given(args)[1]["answers"].teacher),
    "temperature": (0.5, lambda args: given(args)[1]["answers"].writer.config.temperature),
    "top_k": (5, lambda args: given(args)[1]["answers"].writer.config.top_k),
    "top_p": (0.5, lambda args: given(args)[1]["answers"].writer.config.top_p),
    "max_new_tokens": (7, lambda args: given(args)[1]["answers"].writer.config.max_new_tokens),
    "eval_batch_size": (7, lambda args: given(args)[1]["answers"].writer.slots),
}


def test_every_option_has_its_row() -> None:
    assert set(ROWS) >= set(options_of(DistillationOptions))


@pytest.mark.parametrize("name", ROWS)
def test_it_changes_something(name: str, tiny_dir: Path) -> None:
    PLACE["tiny"] = tiny_dir
    value, observe = ROWS[name]
    args = said(tiny_dir)
    assert observe(args) != observe(replace(args, **{name: value}))


def said(place: Path, **more: Any) -> RLHFArguments:
    options: dict[str, Any] = {"model_id_or_path": str(place), "teacher_model": str(place), "dataset": ["x"], **more}
    return RLHFArguments(rlhf_type="gkd", **options)


def test_decided_values(tiny_dir: Path) -> None:
    args = decided(said(tiny_dir))
    assert (args.beta, args.temperature, args.top_k, args.top_p) == (0.5, 1.0, 0, 1.0)
    assert decided(args) == args  # as a rerun says it
    assert task_of(args).decide is decide_gkd


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"teacher_model": None}, "--teacher_model is missing"),
        ({"beta": 1.5}, "--beta 1.5 is above 1"),
        ({"rpo_alpha": 0.5}, "--rpo_alpha has no meaning for gkd"),
        ({"loss_name": "cross-entropy"}, "--loss_name does not go with a teacher"),
        ({"new_special_tokens": ["<a>"]}, "--new_special_tokens does not go with a teacher"),
        ({"packing": True}, "--packing packs answers of the data"),
        ({"fsdp": "full_shard"}, "--lmbda 0.5: who writes answers needs its whole model"),
        ({"max_tokens_per_batch": 100}, "--max_tokens_per_batch counts answers of the data"),
        ({"max_tokens_per_batch": 100, "lmbda": 0.0, "seq_kd": True}, "--lmbda 0 without --seq_kd"),
        ({"deepspeed": "default-zero3"}, "--deepspeed default-zero2"),
        ({"tensor_parallel_size": 2}, "--tensor_parallel_size does not go with a teacher"),
        ({"training_options": {"label_smoothing_factor": 0.1}}, "smooths targets"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], words: str, tiny_dir: Path) -> None:
    with pytest.raises((SwiftError, SeveralErrors)) as caught:
        decided(said(tiny_dir, **more))
    assert words in str(caught.value)


def test_a_dry_run_looks_at_both_vocabularies(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write(tmp_path / "rows.jsonl", [{n: pair(k)[n] for n in ("query", "response")} for k in range(8)])
    words = ["--model_id_or_path", str(tiny_dir), "--teacher_model", str(tiny_dir), "--dataset", rows, "--dry_run"]
    assert main(["gkd", *words, "--output_dir", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "swift rlhf --rlhf_type gkd --model_id_or_path" in told.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["rlhf", "--rlhf_type", "ppo"], ["ppo"]])
def test_ppo_is_refused_with_what_to_type(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--model_id_or_path", "x", "--dataset", "y"]) == 2
    told = capsys.readouterr().err
    assert "dropped it after 1.12" in told
    assert "swift rlhf --rlhf_type rloo" in told

"""A model in shards on two gloo processes trains what one process does, and its checkpoints fit other numbers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from swift import storage
from swift.arguments.engines import Sharding, read_sharding
from swift.commands.export import export_main
from swift.commands.prepare import find_checkpoint
from swift.errors import ConfigError, DataError, InternalError, UsageError
from swift.trainers import GaLoreConfig, Seq2SeqTrainingArguments, sharded
from swift.trainers.engines import check_same_engine
from tests.tiny import tiny_model, tiny_tokenizer
from tests.trainers import shared
from tests.trainers.rows import lora, trainer_of

FULL = {"fsdp": "full_shard"}
LIKE = {
    "grad": {"fsdp": "shard_grad_op"},
    "again": {"fsdp": "full_shard", "gradient_checkpointing": True},
    "plain": {"fsdp": "full_shard", "fused_cross_entropy": False, "fused_lora": False},
    "sgd": {"fsdp": "full_shard", "optim": "sgd"},
    "grouped": {"fsdp": "full_shard", "train_sampling_strategy": "group_by_length"},
}


def alone(out: Path, *cases: tuple[str, str, dict[str, Any]]) -> None:
    for label, kind, said in cases:
        shared.run(out, {"label": label, "kind": kind, "said": said})


def check_alike(out: Path, label: str, one: str, within: float = 1e-5) -> None:
    (numbers, weights), (alone_numbers, alone_weights) = shared.read(out, label), shared.read(out, one)
    for name, values in alone_numbers.items():
        assert numbers[name] == pytest.approx(values, abs=within), name
    assert shared.furthest(weights, alone_weights) <= within


def test_lora_whole_and_in_shards_trains_as_one_process_does(tmp_path: Path) -> None:
    """Whole, two epochs of 21 rows: the last step of each has one process's rows filled up; judged as on GPUs."""
    alone(tmp_path, ("one", "lora", {}))
    ragged = {"kind": "lora", "said": {"max_steps": -1, "num_train_epochs": 2}, "rows": 21}
    shared.run(tmp_path, {"label": "ragged-one", **ragged})
    late = {"kind": "lora", "late": True}
    shared.group(tmp_path, [{"label": "two", "said": FULL, **late}, {"label": "ragged-two", **ragged, **late}])
    check_alike(tmp_path, "two", "one")
    check_alike(tmp_path, "ragged-two", "ragged-one", within=5e-6)
    both = tmp_path / "ragged-two" / "checkpoint-6"
    assert storage.verify(both) == []
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in both.iterdir()}
    assert not list(both.parent.glob(".*"))
    saved, plain = tmp_path / "two" / "checkpoint-6", tmp_path / "one" / "checkpoint-6"
    assert storage.verify(saved) == []
    written, expected = (shared.load_file(place / "adapter_model.safetensors") for place in (saved, plain))
    assert shared.furthest(written, expected) <= 1e-5


@pytest.mark.slow
def test_every_kind_in_shards_trains_as_one_process_does(tmp_path: Path) -> None:
    every = ("full", "tied", "ours", "dora", "plus", "ia3")
    alone(tmp_path, *((f"one-{kind}", kind, {}) for kind in every))
    ways = {"sgd": {"optim": "sgd"}, "grouped": {"train_sampling_strategy": "group_by_length"}}
    alone(tmp_path, ("one-lora", "lora", {}), *((f"one-{name}", "full", said) for name, said in ways.items()))
    kinds = [{"label": f"two-{kind}", "kind": kind, "said": FULL} for kind in every]
    like = [{"label": f"{name}-{kind}", "kind": kind, "said": LIKE[name]} for name in LIKE for kind in ("full", "lora")]
    shared.group(tmp_path, [*kinds, *(case for case in like if case["label"] not in ("sgd-lora", "grouped-lora"))])
    for kind in every:
        check_alike(tmp_path, f"two-{kind}", f"one-{kind}")
    for name in LIKE:
        check_alike(tmp_path, f"{name}-full", f"one-{name if name in ways else 'full'}")
    for name in LIKE.keys() - ways.keys():
        check_alike(tmp_path, f"{name}-lora", "one-lora")


TOGETHER: dict[str, tuple[dict[str, Any], int]] = {"packed": ({}, 3), "free": ({"padding_free": True}, 1)}


def check_rows_together(out: Path, engines: dict[str, dict[str, Any]]) -> None:
    """Rows put together, three to a pack or a batch without padding, train in parts of a model as in a whole one."""
    cases = []
    for kind in ("full", "lora"):
        shared.run(out, {"label": f"one-packed-{kind}", "kind": kind, "said": {}, "packed": 3})
        shared.run(out, {"label": f"one-free-{kind}", "kind": kind, "said": {}})  # padded
        for engine, said in engines.items():
            for way, (more, packed) in TOGETHER.items():
                label = f"{engine}-{way}-{kind}"
                cases.append({"label": label, "kind": kind, "said": {**said, **more}, "packed": packed})
    shared.group(out, cases)
    for case in cases:
        check_alike(out, case["label"], "one-" + case["label"].partition("-")[2])


@pytest.mark.slow
def test_rows_put_together_train_in_shards_too(tmp_path: Path) -> None:
    check_rows_together(tmp_path, {"ddp": {}, "fsdp": FULL, "kept": LIKE["grad"], "again": LIKE["again"]})


@pytest.mark.slow
def test_shards_go_on_exactly_and_on_another_number_of_processes(tmp_path: Path) -> None:
    kinds = ("full", "lora", "ours")
    resume = {kind: str(tmp_path / kind / "checkpoint-3") for kind in kinds}
    shared.group(tmp_path, [{"label": kind, "kind": kind, "said": FULL} for kind in kinds])
    on = [{"label": f"again-{kind}", "kind": kind, "said": FULL, "resume": resume[kind]} for kind in kinds]
    shared.group(tmp_path, on)
    said = {**FULL, "allow_inexact_resume": True}
    shared.group(tmp_path, [{**case, "label": f"single-{case['kind']}", "said": said} for case in on], world=1)
    for kind in kinds:
        straight, again, single = (shared.read(tmp_path, label + kind)[1] for label in ("", "again-", "single-"))
        assert all(torch.equal(straight[name], again[name]) for name in straight)
        assert shared.furthest(straight, single) <= 1e-5


@pytest.mark.slow
def test_shards_become_an_ordinary_model(tmp_path: Path) -> None:
    kinds = ("full", "tied")
    said = {**FULL, "save_only_model": True}
    shared.group(tmp_path, [{"label": kind, "kind": kind, "said": said} for kind in kinds])
    for kind in kinds:
        saved = tmp_path / kind / "checkpoint-6"
        assert not list(saved.glob("*.safetensors"))
        tiny_tokenizer().save_pretrained(saved)
        export_main(from_sharded=str(saved))
        model = type(tiny_model()).from_pretrained(f"{saved}-model")
        trained, written = shared.read(tmp_path, kind)[1], dict(model.named_parameters())
        assert all(torch.equal(trained[name], written[name]) for name in trained)
        with pytest.raises(ValueError, match="in shards"):
            find_checkpoint(str(saved))


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    galore = {"galore_config": GaLoreConfig(rank=4)}
    for said, word in ((galore, "galore"), ({"optim": "adafactor"}, "adafactor"), ({"own_optim": "muon"}, "muon")):
        with pytest.raises(ConfigError, match=word):
            trainer_of(tiny_model(vocab_size=64), tmp_path, fsdp="full_shard", **said)
    with pytest.raises(ConfigError, match="lisa"):
        trainer_of(tiny_model(vocab_size=64), tmp_path, fsdp="full_shard", lisa_activated_layers=1)
    with pytest.raises(ConfigError, match="process group"):
        trainer_of(lora(), tmp_path, fsdp="full_shard")
    with pytest.raises(InternalError, match="not cut"):
        sharded.check_sharded(tiny_model())
    with pytest.raises(DataError, match="no shards"):
        sharded.put_together(tmp_path)


def test_words_of_fsdp() -> None:
    assert read_sharding(None) is None
    assert read_sharding("full_shard auto_wrap") == Sharding()
    assert read_sharding("full_shard offload") == Sharding(offload=True)
    assert read_sharding("shard_grad_op") == Sharding(reshard=False)
    for said in ("auto_wrap", "full", "full_shard shard_grad_op"):
        with pytest.raises(UsageError, match="--fsdp"):
            read_sharding(said)
    arguments = Seq2SeqTrainingArguments(output_dir="x", fsdp="full_shard auto_wrap")
    assert arguments.sharding == "full_shard auto_wrap"
    assert not arguments.fsdp


def test_a_checkpoint_of_another_engine_is_refused(tmp_path: Path) -> None:
    for engine in (None, "fsdp", "deepspeed-zero2"):
        facts = {**({"engine": engine} if engine else {}), "run": {"world_size": 2}}
        with storage.staged_directory(tmp_path / f"of-{engine}", facts):
            pass
        check_same_engine(tmp_path / f"of-{engine}", engine, 2)
    check_same_engine(tmp_path / "of-fsdp", "fsdp", 1)
    with pytest.raises(ConfigError, match="cut the optimiser's state for 2 processes"):
        check_same_engine(tmp_path / "of-deepspeed-zero2", "deepspeed-zero2", 4)
    for engine in ("fsdp", "deepspeed-zero3"):
        with pytest.raises(ConfigError, match="wrote it"):
            check_same_engine(tmp_path / "of-None", engine, 2)

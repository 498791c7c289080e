"""What a reference says: kept by example, under a key of all that it depends on; and which model that is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import nn
from transformers import TrainingArguments

from swift.arguments.rlhf import RLHFArguments
from swift.commands import prepare, rlhf
from swift.datasets import cache
from swift.datasets.blocks import Blocks, block_of
from swift.datasets.encode import EncodedDataset
from swift.models.room import make_room
from swift.preference import reference
from swift.preference.batches import Collator
from swift.preference.losses import Settings
from swift.preference.rows import PreferenceRows
from swift.preference.trainer import Method, PreferenceTrainer
from swift.trainers.loss import cross_entropy
from tests.tiny import tiny_model


def row(k: int) -> dict[str, list[int]]:
    return {"input_ids": [3, 4 + k, 9], "labels": [-100, 4 + k, 9], "rejected": [k % 2] * 3}


def stored(places: list[int], order: list[int], *, single: bool = True) -> PreferenceRows:
    rows = EncodedDataset(Blocks([block_of([row(k) for k in places])]), np.array(order))
    return PreferenceRows(rows, single=single)


def pairs() -> PreferenceRows:
    def of(k: int) -> dict[str, list[int]]:
        ids = [3, 4 + k, 9]
        return {"input_ids": ids * 2, "labels": [-100, 4 + k, 9] * 2, "rejected": [0] * 3 + [1] * 3}

    return PreferenceRows(EncodedDataset(Blocks([block_of([of(k) for k in range(4)])]), np.arange(4)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path / "encoded")
    return tmp_path


def trainer(model: nn.Module, place: Path, own: nn.Module | None = None, **said: Any) -> PreferenceTrainer:
    return PreferenceTrainer(
        model,
        TrainingArguments(str(place), use_cpu=True, report_to=[], remove_unused_columns=False, **said),
        Collator(0),
        pairs(),
        method=Method("dpo", "sigmoid", Settings()),
        reference=reference.Reference(own),
    )


def test_numbers_are_kept_by_example_however_rows_are_stored(here: Path) -> None:
    model = tiny_model("qwen2")
    one, other = stored([0, 1, 2, 3], [2, 0, 1, 3, 0]), stored([3, 2, 1, 0], [1, 3, 2, 0, 3])
    key = reference.key_of(model, one)
    assert reference.key_of(model, other) == key
    values = np.arange(8, dtype=np.float32).reshape(4, 2)
    reference.keep(key, values[one.order])
    for rows in (one, other):
        found = reference.read(key, rows)
        assert found is not None
        assert found[rows.order].tolist() == values[one.order].tolist()


def test_what_is_no_number_stays_so_and_is_not_kept(here: Path) -> None:
    rows = stored([0, 1], [0, 1])
    key = reference.key_of(tiny_model("qwen2"), rows)
    reference.keep(key, np.array([[np.nan, 0], [0, 0]], np.float32))
    assert reference.read(key, rows) is None


def test_the_key_is_of_all_that_decides(here: Path) -> None:
    rows = stored([0, 1], [0, 1])
    model = tiny_model("qwen2")
    model.register_buffer("qweight", torch.zeros(3, dtype=torch.int32))
    one = reference.key_of(model, rows)
    other = copy.deepcopy(model)
    other.config._name_or_path = "elsewhere"
    assert reference.key_of(other, rows) == one
    other.get_buffer("qweight")[1] = 1
    assert reference.key_of(other, rows)["weights"] != one["weights"]
    model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert reference.key_of(model, rows)["config"] != one["config"]


def test_the_key_is_of_what_quantised_weights_consist_of() -> None:
    class Twice(torch.Tensor):
        half: torch.Tensor

        @staticmethod
        def __new__(cls: Any, half: torch.Tensor) -> Any:
            made = torch.Tensor._make_wrapper_subclass(cls, half.shape, dtype=half.dtype)
            made.half = half
            return made

        def __tensor_flatten__(self) -> tuple[list[str], None]:
            return ["half"], None

        @staticmethod
        def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> Any:
            return Twice(inner["half"])

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert func is torch.ops.aten.detach.default, func
            return cls(args[0].half)

    class Held(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("weight", Twice(torch.full((2,), value)))

    assert reference.weights_digest(Held(1.0)) == reference.weights_digest(Held(1.0))
    assert reference.weights_digest(Held(1.0)) != reference.weights_digest(Held(2.0))


def test_full_training_is_measured_against_the_model_with_its_new_rows(tiny_dir: Path) -> None:
    model: Any = tiny_model("qwen2")
    make_room(model, [len(model.get_input_embeddings().weight)], None)
    args = RLHFArguments(model_id_or_path=str(tiny_dir), sft_type="full", loss_type="sigmoid")
    found = rlhf.find_reference(args, prepare.find_source(args), model)
    assert found is not None
    assert found.model is not None
    there, here = (m.get_input_embeddings().weight for m in (cast(Any, found.model), model))
    assert torch.equal(there, here)
    assert there is not here


def test_a_run_tells_which_reference_and_smooths_no_log_probability(tmp_path: Path) -> None:
    model, one = tiny_model("qwen2"), tiny_model("qwen2", seed=7)
    told = [trainer(model, tmp_path, own)._run["reference"] for own in (None, copy.deepcopy(model), one)]
    assert len(set(told)) == 3
    harder = trainer(model, tmp_path)
    harder.method = Method("dpo", "sigmoid", Settings(beta=0.2))
    assert (trainer(model, tmp_path)._run["beta"], harder._run["beta"]) == (0.1, 0.2)
    assert trainer(model, tmp_path, label_smoothing_factor=0.3).token_loss is cross_entropy


def test_adalora_keeps_its_factors_orthogonal(tmp_path: Path) -> None:
    config = AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj"], orth_reg_weight=1000.0)
    model = get_peft_model(tiny_model("qwen2"), config)
    trains = trainer(model, tmp_path)
    batch = trains._prepare_inputs(Collator(0)([pairs()[0]]))
    assert trains.ranks is not None
    trains.current_gradient_accumulation_steps = 2
    whole = trains.compute_loss(model, batch)
    trains._evaluating = True
    alone = trains.compute_loss(model, batch)
    assert (whole - alone).item() == pytest.approx(trains.ranks.orthogonality().item() / 2, rel=1e-4)

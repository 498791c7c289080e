"""Between two lines of the log nothing is read from the device, and a step that is not finite changes nothing all the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, masking_utils

from swift.errors import InternalError
from swift.trainers import head
from swift.trainers.known import LOOKS_AT_MASK, LOOKS_AT_POSITIONS, Known, masks_told
from swift.trainers.loss import LOSSES, register_loss
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, lora, losses, trainer_of, weights

aten = torch.ops.aten
READS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim)


class Values(TorchDispatchMode):
    """Counts what a device would have to be waited for: values, and sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.on = 0, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        self.count += self.on and (by_mask or func.overloadpacket in READS)
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts, with the others, reads of whole tensors, which are no operations on a CPU."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.values.count += self.values.on and func in (Tensor.tolist, Tensor.cpu)
        return func(*args, **(kwargs or {}))


class PerStep(TrainerCallback):
    """What was counted inside each step, and between it and the next."""

    def __init__(self, reads: Values) -> None:
        self.reads, self.inside, self.between, self.before = reads, [], [], 0

    def _since(self) -> int:
        since, self.before = self.reads.count - self.before, self.reads.count
        return since

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.between.append(self._since())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.inside.append(self._since())


def counted(model: Any, out: Path, late: bool = True, **said: Any) -> PerStep:
    """Train 8 steps with a line every 4, but for what is done with batches on the host."""
    reads = Values()
    steps = PerStep(reads)
    trainer = trainer_of(model, out, max_steps=8, logging_steps=4, callbacks=[steps], **said)
    trainer.reads_late = late
    draw = trainer.get_batch_samples

    def on_the_host(*args: Any) -> Any:
        reads.on = False
        batches = draw(*args)
        reads.on = True
        return batches

    trainer.get_batch_samples = on_the_host  # type: ignore[method-assign]
    with reads, Lists(reads):
        trainer.train()
    assert len(losses(trainer)) == 2
    return steps


def full() -> Any:
    torch.manual_seed(0)
    return tiny_model(vocab_size=VOCAB, hidden=32)


@pytest.fixture(autouse=True)
def hits_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count right tokens as on a GPU: on a CPU the rows that are looked at are chosen by their numbers."""
    monkeypatch.setattr(head, "_hits", lambda y_CV, target_C, top_C, targets_C: y_CV.argmax(dim=1) == targets_C)


@contextmanager
def loss_named(name: str, loss: Any) -> Iterator[None]:
    register_loss(name)(loss)
    try:
        yield
    finally:
        del LOSSES[name]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"padding_free": True},
        {"fused_cross_entropy": False, "max_grad_norm": 0},
        {"max_tokens_per_batch": 40, "label_smoothing_factor": 0.1},
    ],
    ids=str,
)
def test_nothing_is_read_between_two_lines(tmp_path: Path, said: dict[str, Any]) -> None:
    steps = counted(lora(), tmp_path, **said)
    assert steps.inside[1:] == [0] * 7, "the first step looks at what becomes of the head's output"
    assert [count > 0 for count in steps.between] == [False] * 4 + [True] + [False] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("said", [{}, {"padding_free": True}, {"bf16": True}], ids=str)
def test_a_gpu_is_not_waited_for(tmp_path: Path, said: dict[str, Any]) -> None:  # needs-cuda
    """PyTorch itself raises an error where something would wait, between the second step and the line of the log."""

    class Strict(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            torch.cuda.set_sync_debug_mode("default" if control.should_log or state.global_step < 2 else "error")

    try:
        trainer = trainer_of(
            lora(), tmp_path, use_cpu=False, max_steps=9, logging_steps=9, callbacks=[Strict()], **said
        )
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(losses(trainer)) == 1


def test_a_step_is_read_at_once_where_nothing_is_waited_for(tmp_path: Path) -> None:
    steps = counted(lora(), tmp_path, late=False)
    assert steps.inside[1:] == [2] * 7, "whether its loss and its gradient are finite"


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("every", [1, 10])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, poison: str, every: int) -> None:
    """It is heard of with its line of the log, else when the next step has its gradients and is not taken either."""

    def poisoned(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        plain = F.cross_entropy(logits_NV, targets_N, reduction="none")
        if calls != 3:
            return plain
        return plain * math.nan if poison == "loss" else plain + (logits_NV.sum() * 0).sqrt()

    def run(late: bool) -> tuple[Any, dict[str, Tensor], Any]:
        model = full()
        said: dict[str, Any] = {"logging_steps": every, "weight_decay": 0.1, "max_steps": 20}
        trainer = trainer_of(model, tmp_path, loss_name="poisoned", save_strategy="steps", save_steps=20, **said)
        trainer.reads_late = late
        with pytest.raises(InternalError, match=f"step 3: the {poison} is not finite") as caught:
            trainer.train()
        return caught.value.exit_code, weights(model), trainer.optimizer.state_dict()["state"]  # type: ignore[union-attr]

    with loss_named("poisoned", poisoned):
        calls = 0
        at_once = run(late=False)
        assert calls == 3
        calls = 0
        later = run(late=True)
        assert calls == (3 if every == 1 else 4)
    assert at_once[0] == later[0] == 70
    assert all(torch.equal(later[1][name], tensor) for name, tensor in at_once[1].items())
    assert {float(state["step"]) for state in later[2].values()} == {2.0}
    for number, state in at_once[2].items():
        assert all(torch.equal(later[2][number][name], value) for name, value in state.items())
    assert not list(tmp_path.glob("checkpoint-*"))


def test_it_learns_the_same_and_leaves_the_optimiser_as_it_was(tmp_path: Path) -> None:
    found = []
    for late in (False, True):
        trainer = trainer_of(lora(), tmp_path / str(late), logging_steps=3, max_grad_norm=0.1)
        trainer.reads_late = late
        trainer.train()
        found.append((losses(trainer), weights(trainer.model)))
        assert "found_inf" not in vars(trainer.optimizer.optimizer)  # type: ignore[union-attr]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[1][1][name], tensor) for name, tensor in found[0][1].items())


def test_an_optimiser_that_cannot_be_kept_from_a_step_is_asked_before_it(tmp_path: Path) -> None:
    def nan(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        return logits_NV.sum(-1) * math.nan

    model = lora()
    before = weights(model)
    with loss_named("nan", nan):
        trainer = trainer_of(model, tmp_path, optim="sgd", loss_name="nan", logging_steps=10)
        trainer.reads_late = True
        with pytest.raises(InternalError, match="step 1: the loss"):
            trainer.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model).items())


def test_masks_are_those_that_transformers_makes_when_it_looks() -> None:
    model = full().eval()
    ids_BT = torch.randint(3, VOCAB, (2, 9))
    plain = torch.ones_like(ids_BT)
    padded = plain.clone()
    padded[1, 6:] = 0
    packs = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1]] * 2)
    alone = torch.arange(9).expand(2, -1)
    for inputs in (
        {"attention_mask": plain}, {"attention_mask": padded}, {"position_ids": packs}, {"position_ids": alone}, {},
    ):  # fmt: skip
        of = Known.of({"input_ids": ids_BT, "labels": ids_BT, **inputs}, ids_BT.device)
        assert (of.padded, of.packed) == (inputs.get("attention_mask") is padded, inputs.get("position_ids") is packs)
        looked = model(ids_BT, **inputs, use_cache=False).logits
        with Values() as reads, masks_told(of):
            told = model(ids_BT, **inputs, use_cache=False).logits
        assert torch.equal(told, looked)
        assert reads.count == 0
    names = {LOOKS_AT_MASK, LOOKS_AT_POSITIONS}
    assert names <= vars(masking_utils).keys(), "transformers has other names for them now"
    with Values() as reads:
        model(ids_BT, use_cache=False)
    assert reads.count > 0, "it looks again"

"""AdaLoRA in a run: its ranks shrink to the target on schedule, its factors stay orthogonal, a resumed run is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.adalora import AdaLoraLayer

from swift.errors import ConfigError
from swift.tuners import Swift, SwiftModel
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, Rows, losses, trainer_of, weights

TARGETS = ["q_proj", "v_proj", "down_proj"]
KINDS = ["alone", "in a dict"]


def adalora(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = peft.AdaLoraConfig(
        **{"init_r": 6, "target_r": 2, "total_step": 1000, "tinit": 2, "tfinal": 3, "deltaT": 2} | options,
        target_modules=TARGETS,
        task_type="CAUSAL_LM",
    )
    model = tiny_model(vocab_size=VOCAB, hidden=32)
    return Swift.prepare_model(model, config if kind == "alone" else {"default": config})


def ranks(model: Any) -> list[int]:
    """How many singular values of each layer are not zero."""
    layers = [module for module in model.modules() if isinstance(module, AdaLoraLayer)]
    return [int((layer.lora_E["default"] != 0).sum()) for layer in layers]


def config_of(model: Any) -> Any:
    return model.adapters["default"] if isinstance(model, SwiftModel) else model.peft_config["default"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ranks_shrink_to_the_target(kind, tmp_path):
    model = adalora(kind, deltaT=1)  # between two cuts an entry may grow again
    trainer = trainer_of(model, tmp_path, Rows(16), max_steps=14, learning_rate=1e-2, save_strategy="no")
    seen = []
    trainer.training_step = _then(trainer.training_step, lambda: seen.append(sum(ranks(model))))
    trainer.train()
    layers = len(ranks(model))
    assert config_of(model).total_step == 14
    assert max(seen) == 6 * layers
    assert sum(ranks(model)) == 2 * layers
    assert seen[0] == 0  # the update starts at zero
    assert seen[1:] == sorted(seen[1:], reverse=True)
    assert len(set(ranks(model))) > 1  # the budget is shared out among layers, not cut evenly


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_as_peft_s_own_loop(kind, tmp_path):
    """PEFT's model, its loss and its `update_and_allocate`, in a loop as its documentation writes it."""
    rows = Rows(8)
    model = adalora(kind, orth_reg_weight=0.3)
    said = {"per_device_train_batch_size": 2, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "optim": "sgd"}
    trainer = trainer_of(model, tmp_path, rows, max_steps=8, learning_rate=0.1, save_strategy="no", **said)
    batches: list[Any] = []
    step = trainer.training_step
    trainer.training_step = lambda one, inputs, *rest: (batches.append(dict(inputs)), step(one, inputs, *rest))[1]
    trainer.train()

    theirs = adalora("alone", orth_reg_weight=0.3, total_step=8).train()
    optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], 0.1)
    for number, inputs in enumerate(batches, 1):
        theirs(**inputs).loss.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(number)
        optimizer.zero_grad()
    wanted = {key.removeprefix("base_model.model."): p for key, p in theirs.named_parameters() if p.requires_grad}
    inside = model.base_model if kind != "alone" else model.base_model.model
    found = {key: p for key, p in inside.named_parameters() if p.requires_grad}
    assert set(found) == set(wanted)
    assert ranks(model) == ranks(theirs)
    assert all(torch.allclose(found[key], wanted[key], atol=1e-6) for key in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_is_one_that_never_stopped(kind, tmp_path):
    said: dict[str, Any] = {"save_strategy": "steps", "save_steps": 5, "max_steps": 12, "learning_rate": 1e-2}
    said |= {"logging_steps": 1, "save_total_limit": None}
    straight = trainer_of(adalora(kind), tmp_path / "straight", Rows(16), **said)
    straight.train()
    resumed = trainer_of(adalora(kind), tmp_path / "resumed", Rows(16), **said)
    resumed.train(resume_from_checkpoint=tmp_path / "straight/checkpoint-5")
    assert losses(resumed) == losses(straight)
    same, other = weights(straight.model), weights(resumed.model)
    assert all(torch.equal(same[name], other[name]) for name in same)
    ids = torch.arange(3, 11)[None]
    loaded = Swift.from_pretrained(tiny_model(vocab_size=VOCAB, hidden=32), _last(tmp_path / "resumed"))
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, resumed.model.eval()(input_ids=ids).logits)


def test_a_schedule_that_leaves_no_step_is_refused(tmp_path):
    trainer = trainer_of(adalora("alone", tinit=9, tfinal=9), tmp_path, Rows(8), max_steps=12, save_strategy="no")
    with pytest.raises(ConfigError, match="tinit 9 and tfinal 9"):
        trainer.train()


def _then(function, after):
    def both(*args, **kwargs):
        result = function(*args, **kwargs)
        after()
        return result

    return both


def _last(run: Path) -> Path:
    return max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))

"""The Trainer of transformers trains every tuner, whatever the host: the loss falls and the checkpoint loads."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from swift.errors import NotFoundError
from swift.tuners import Swift
from tests.tuners.cases import HOSTS, METHODS, Host, loss_of, rows, run, tuned

QUICK = ("lora", "adapter", "llamapro", "reft", "prompt")


class Losses(TrainerCallback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.values += [logs["loss"]] if "loss" in logs else []


class HostTrainer(Trainer):
    """The trainer with the loss of the table, which every host has."""

    host: Host

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return loss_of(model, self.host)


def fit(model: nn.Module, host: Host, where, rate: float, steps: int = 20, **options) -> list[float]:
    count = len(next(iter(host.inputs.values())))
    data = [{key: value[row] for key, value in host.inputs.items()} for row in range(count)] * 4
    arguments = TrainingArguments(
        str(where),
        max_steps=steps,
        per_device_train_batch_size=count,
        learning_rate=rate,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        disable_tqdm=True,
        save_strategy="no",
        remove_unused_columns=False,
        **options,
    )
    trainer = HostTrainer(model=model, args=arguments, train_dataset=data, callbacks=[losses := Losses()])
    trainer.host = host
    trainer.train()
    return losses.values


@pytest.mark.parametrize(("host", "method"), rows(only=lambda row: row.learns, quick=QUICK))
def test_the_trainer_trains_it(host, method, tmp_path):
    host, row = HOSTS[host], METHODS[method]
    model = tuned(host, method, None)
    before = {key: value.clone() for key, value in model.base_model.state_dict().items()}
    losses = fit(model, host, tmp_path, row.rate)
    assert len(losses) == 20
    assert sum(losses[-5:]) < sum(losses[:5])
    after = model.base_model.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} <= set(model.owned("one"))
    model.save_pretrained(tmp_path)
    loaded = Swift.from_pretrained(host.make(), tmp_path)
    assert torch.equal(run(loaded, host), run(model.cpu(), host))


def test_two_kinds_train_at_once_with_checkpointing_and_autocast(tmp_path):
    host = HOSTS["lm"]
    model = tuned(host, "adapter", None, "two", tuned(host, "lora", None))
    moved = {key: value.clone() for key, value in model.state_dict().items()}
    losses = fit(model, host, tmp_path, 0.02, gradient_checkpointing=True, bf16=True)
    assert sum(losses[-5:]) < sum(losses[:5])
    after = model.state_dict()
    assert {key.split(".")[-2] for key in moved if not torch.equal(moved[key], after[key])} >= {"down", "up"}
    for name in ("one", "two"):
        assert any(not torch.equal(moved[key], after[key]) for key in model.state_dict(adapter_name=name))


def test_its_own_loss_is_trained_too(tmp_path):
    host = HOSTS["lm"]
    model = tuned(host, "lora", None)
    data = [{key: value[row] for key, value in host.inputs.items()} for row in range(2)] * 4
    options = {"report_to": [], "use_cpu": True, "logging_steps": 1, "disable_tqdm": True, "save_strategy": "no"}
    arguments = TrainingArguments(str(tmp_path), max_steps=20, learning_rate=0.02, **options)
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[losses := Losses()])
    trainer.train()
    assert sum(losses.values[-5:]) < sum(losses.values[:5])


def test_what_the_trainer_saves_alone_is_told_from_a_checkpoint_and_can_be_used(tmp_path):
    host = HOSTS["lm"]
    model = tuned(host, "adapter", None, "two", tuned(host, "lora", None))
    fit(model, host, tmp_path, 0.02, 2)
    trainer = Trainer(model=model, args=TrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    trainer.save_model(str(tmp_path / "saved"))
    with pytest.raises(NotFoundError, match="tensors alone") as caught:
        Swift.from_pretrained(host.make(), tmp_path / "saved")
    assert "save_pretrained" in caught.value.fix
    assert "Seq2SeqTrainer" in caught.value.fix
    again = tuned(host, "adapter", 3, "two", tuned(host, "lora", 3))
    again.load_state_dict(load_file(tmp_path / "saved" / "model.safetensors"))  # as the message says
    assert torch.equal(run(again, host), run(model.cpu(), host))

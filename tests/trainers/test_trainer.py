"""Laws of a run: one loss however a step is split, evaluated and logged as said, stopped where a number is not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from swift.errors import ConfigError, DataError, InternalError, MissingPackageError, UnknownNameError
from swift.trainers import Seq2SeqTrainer, register_loss, register_metric
from swift.trainers.loss import LOSSES
from swift.trainers.metrics import METRICS
from swift.tuners import AdapterConfig, LoraConfig, Swift
from tests.tiny import tiny_model, tiny_tokenizer
from tests.trainers.rows import VOCAB, Rows, collate, lora, losses, trainer_of, weights


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def run(output: Path, model: Any = None, **said: Any) -> tuple[dict[str, Tensor], list[float]]:
    model = lora() if model is None else model
    trainer = trainer_of(model, output, **said)
    trainer.train()
    return weights(model), losses(trainer)


def by_hand(rows: Rows, steps: list[list[int]], **adam: float) -> tuple[dict[str, Tensor], list[float]]:
    """A plain loop: mean over the supervised tokens of each step's rows, one row at a time."""
    model = lora().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    seen = []
    for step in steps:
        batches = [collate([rows[i]]) for i in step]
        count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            labels = batch.pop("labels")
            logits = model(**batch).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(total)
    return weights(model), seen


@pytest.mark.parametrize("exact", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_step_is_one_step_however_it_is_split(tmp_path: Path, exact: bool) -> None:
    """In float64 on GPT-2, which nowhere casts; in float32 on Qwen2."""

    def model() -> Any:
        return tiny_model("gpt2", vocab_size=VOCAB, hidden=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).double()

    limit, said = (1e-11 if exact else 1e-6), {"train_sampling_strategy": "sequential", "learning_rate": 1e-3}
    said |= {"max_steps": 2}
    whole, curve = run(tmp_path, model() if exact else None, per_device_train_batch_size=8, **said)
    for size in (1, 2, 4):
        split, same = run(
            tmp_path,
            model() if exact else None,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            **said,
        )
        assert far(whole, split) <= limit
        assert same == pytest.approx(curve, abs=1e-6)


def test_a_ragged_last_window_is_the_hand_written_loop(tmp_path: Path) -> None:
    rows = Rows(11)
    got, curve = run(
        tmp_path,
        train=rows,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        max_steps=-1,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
    )
    expected, hand = by_hand(rows, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]])
    assert far(got, expected) <= 1e-5  # Adam's first steps make much of a gradient's last bits
    assert curve == pytest.approx(hand, abs=1e-6)


def test_padding_changes_nothing(tmp_path: Path) -> None:
    got = [run(tmp_path, collator=lambda rows, to=to: collate(rows, to), max_steps=3) for to in (0, 32)]
    assert far(got[0][0], got[1][0]) <= 1e-5
    assert got[0][1] == pytest.approx(got[1][1], abs=1e-6)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_chosen_positions_give_what_all_positions_give(tmp_path: Path, kind: str) -> None:
    trainer = trainer_of(tiny_model(kind, vocab_size=VOCAB, hidden=32), tmp_path, fused_cross_entropy=False)
    trainer.model.eval()
    batch = collate([Rows(5)[i] for i in range(5)])
    assert trainer._keeps_positions
    with torch.no_grad():
        chosen = trainer.compute_loss(trainer.model, dict(batch))
        trainer._keeps_positions = False
        every = trainer.compute_loss(trainer.model, dict(batch))
        native = trainer.model(**batch).loss
    assert float(chosen) == pytest.approx(float(every), abs=1e-6)
    assert float(chosen) == pytest.approx(float(native), abs=1e-6)


def test_evaluation_does_not_depend_on_its_batches(tmp_path: Path) -> None:
    model, rows = lora(), Rows(7, seed=5)
    got = [trainer_of(model, tmp_path, val=rows, per_device_eval_batch_size=size).evaluate() for size in (1, 3, 7)]
    batch = collate([rows[i] for i in range(7)])
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        logits = model.eval()(**batch).logits[:, :-1]
    on = labels != -100
    expected = float(F.cross_entropy(logits[on], labels[on]))
    for metrics in got:
        assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-6)
        assert metrics["eval_acc"] == pytest.approx(float((logits.argmax(-1) == labels)[on].float().mean()))


def test_metrics_by_name_and_by_hand(tmp_path: Path) -> None:
    @register_metric("longest")
    def longest(predictions_BT: Any, labels_BT: Any) -> dict[str, float]:
        assert predictions_BT.shape == labels_BT.shape
        return {"longest": float((labels_BT != -100).sum(axis=1).max())}

    try:
        rows = Rows(7, seed=5)
        names = ["longest", "token-accuracy", "sentence-accuracy"]
        trainer = trainer_of(lora(), tmp_path, val=rows, metric_names=names, per_device_eval_batch_size=3)
        metrics = trainer.evaluate()
        assert metrics["eval_token_accuracy"] == pytest.approx(metrics["eval_acc"])
        assert 0 <= metrics["eval_sentence_accuracy"] <= metrics["eval_token_accuracy"]
        assert metrics["eval_longest"] == max(sum(label != -100 for label in row["labels"][1:]) for row in rows.rows)
    finally:
        del METRICS["longest"]
    own = trainer_of(lora(), tmp_path, val=Rows(3), compute_metrics=lambda p: {"shape": p.predictions.shape[-1]})
    assert own.evaluate()["eval_shape"] == VOCAB
    with pytest.raises(UnknownNameError, match="no metric is called"):
        trainer_of(lora(), tmp_path, metric_names=["token-acuracy"])


def test_sentence_accuracy_counts_rows(tmp_path: Path) -> None:
    trainer = trainer_of(lora(), tmp_path, acc_strategy="sentence")
    totals = {"tokens": 9.0, "correct": 8.0, "rows": 4.0, "correct_rows": 3.0}
    assert trainer._accuracy(totals) == 0.75


def test_a_learnt_answer_is_accurate(tmp_path: Path) -> None:
    rows = Rows(4)
    model = tiny_model(vocab_size=VOCAB, hidden=32)
    trainer = trainer_of(model, tmp_path, train=rows, val=rows, max_steps=60, learning_rate=1e-2, logging_steps=60)
    trainer.train()
    history = trainer.state.log_history
    assert trainer.evaluate()["eval_acc"] == 1.0
    assert [entry["acc"] for entry in history if "acc" in entry][-1] > 0.5


def test_a_named_loss_and_smoothing_are_used(tmp_path: Path) -> None:
    @register_loss("double")
    def double(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        return 2 * F.cross_entropy(logits_NV, targets_N, reduction="none")

    try:
        _, plain = run(tmp_path, max_steps=1)
        _, twice = run(tmp_path, max_steps=1, loss_name="double")
        assert twice == pytest.approx([2 * plain[0]], rel=1e-6)
        _, smooth = run(tmp_path, max_steps=1, label_smoothing_factor=0.5)
        assert smooth[0] != pytest.approx(plain[0], abs=1e-6)
    finally:
        del LOSSES["double"]


def test_a_log_line_holds_what_it_should(tmp_path: Path) -> None:
    trainer = trainer_of(lora(), tmp_path, max_steps=2)
    trainer.train()
    names = ["loss", "acc", "grad_norm", "learning_rate", "memory(GiB)", "train_speed(iter/s)", "train_speed(token/s)"]
    assert list(trainer.state.log_history[0]) == [*names, "epoch", "step"]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_run(tmp_path: Path, poison: str) -> None:
    @register_loss("poisoned")
    def poisoned(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        plain = F.cross_entropy(logits_NV, targets_N, reduction="none")
        if calls < 3:
            return plain
        return plain * math.nan if poison == "loss" else plain + (logits_NV.sum() * 0).sqrt()

    calls = 0
    try:
        model = lora()
        trainer = trainer_of(model, tmp_path, loss_name="poisoned", save_strategy="steps", save_steps=1)
        with pytest.raises(InternalError, match=f"step 3: the {poison} is not finite") as caught:
            trainer.train()
        assert str(tmp_path / "checkpoint-2") in str(caught.value.why)
        assert caught.value.exit_code == 70
        assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())
        assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    finally:
        del LOSSES["poisoned"]


def test_an_evaluation_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = lora()
    with torch.no_grad():
        weights_of_head = model.get_base_model().lm_head.weight
        weights_of_head[0, 0] = math.inf
    with pytest.raises(InternalError, match="evaluation loss"):
        trainer_of(model, tmp_path, val=Rows(3)).evaluate()


def test_a_step_without_a_supervised_token_is_refused(tmp_path: Path) -> None:
    rows = Rows(4)
    for row in rows.rows:
        row["labels"] = [-100] * len(row["labels"])
    with pytest.raises(DataError, match="step 1: none of its rows has a token to learn"):
        trainer_of(lora(), tmp_path, train=rows).train()


def test_one_unsupervised_row_among_others_is_nothing(tmp_path: Path) -> None:
    rows = Rows(8)
    rows.rows[0]["labels"] = [-100] * len(rows.rows[0]["labels"])
    options = {"train_sampling_strategy": "sequential", "max_steps": 1, "train": rows}
    one, curve = run(tmp_path, per_device_train_batch_size=8, **options)
    split, same = run(tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=8, **options)
    assert far(one, split) <= 1e-6
    assert same == pytest.approx(curve, abs=1e-6)


def test_early_stopping_stops_and_saves(tmp_path: Path) -> None:
    trainer = trainer_of(
        lora(), tmp_path, val=Rows(4, seed=9), learning_rate=0.0, max_steps=50, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=40, early_stopping_patience=3,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 4
    assert (tmp_path / "checkpoint-4").is_dir()
    trainer.train(resume_from_checkpoint="auto")
    assert trainer.state.global_step == 4  # it was stopped, and stays so


def test_the_best_is_the_best_of_what_was_saved(tmp_path: Path) -> None:
    trainer = trainer_of(
        lora(), tmp_path, val=Rows(4, seed=9), max_steps=6, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=2, save_total_limit=1,
    )  # fmt: skip
    values = {2: 3.0, 3: 1.0, 4: 2.0, 6: 2.5}
    evaluate = trainer.evaluation_loop

    def planned(*args: Any, **kwargs: Any) -> Any:
        output = evaluate(*args, **kwargs)
        output.metrics["eval_loss"] = values.get(trainer.state.global_step, 9.0)
        return output

    trainer.evaluation_loop = planned
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_evaluation_leaves_no_trace_in_training(tmp_path: Path) -> None:
    said = {"val": Rows(4, seed=9), "eval_strategy": "steps"}
    curves = []
    for steps in (1, 4):
        trainer = trainer_of(lora(0.2), tmp_path, eval_steps=steps, **said)
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("steps", "evaluated"), [(8, [4, 8]), (7, [4, 7])])
def test_evaluation_of_an_epoch_comes_before_its_last_checkpoint(
    tmp_path: Path, steps: int, evaluated: list[int]
) -> None:
    said = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 2, "max_steps": steps}
    straight = trainer_of(lora(0.2), tmp_path, val=Rows(16), **said)
    straight.train()
    assert [entry["step"] for entry in straight.state.log_history if "eval_loss" in entry] == evaluated
    assert straight.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{steps}")
    resumed = trainer_of(lora(0.2), tmp_path, val=Rows(16), **said)
    resumed.train(resume_from_checkpoint=tmp_path / "checkpoint-4")
    logs = [
        [{k: v for k, v in e.items() if "loss" in k} for e in t.state.log_history[:-1]] for t in (straight, resumed)
    ]
    assert logs[0] == logs[1]


def test_the_last_step_is_logged_evaluated_and_saved(tmp_path: Path) -> None:
    trainer = trainer_of(
        lora(), tmp_path, val=Rows(4), max_steps=5, eval_strategy="steps", eval_steps=3, save_strategy="steps",
        save_steps=3, logging_steps=4,
    )  # fmt: skip
    trainer.train()
    history = trainer.state.log_history
    assert [entry["step"] for entry in history if "loss" in entry] == [3, 4, 5]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [3, 5]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-5"]


TUNED = {
    "plain": lambda model: model,
    "peft": lambda model: Swift.prepare_model(model, LoraConfig(r=4, target_modules=["q_proj"])),
    "two": lambda model: Swift.prepare_model(
        model,
        {
            "first": LoraConfig(r=4, target_modules=["q_proj"]),
            "second": AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=4),
        },
    ),
}


@pytest.mark.parametrize("kind", TUNED)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_kind_of_model_trains(tmp_path: Path, kind: str, checkpointing: bool) -> None:
    model = TUNED[kind](tiny_model(vocab_size=VOCAB, hidden=32))
    before = weights(model)
    rows = Rows(8)
    said = {"gradient_checkpointing": checkpointing, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    trainer = trainer_of(model, tmp_path, train=rows, val=rows, max_steps=30, **said)
    start = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < start
    assert weights(model).keys() == before.keys()
    assert far(before, weights(model)) > 0


def test_tuners_choose_their_learning_rates(tmp_path: Path) -> None:
    model = Swift.prepare_model(
        tiny_model(vocab_size=VOCAB, hidden=32), LoraConfig(r=4, target_modules=["q_proj"], lorap_lr_ratio=8.0)
    )
    trainer = trainer_of(model, tmp_path, learning_rate=1e-3)
    rates = {group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == {1e-3, 8e-3}
    plain = trainer_of(lora(), tmp_path, learning_rate=1e-3)
    assert {group["lr"] for group in plain.create_optimizer().param_groups} == {1e-3}


def test_an_optimiser_of_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.trainer_optimizer.is_bitsandbytes_available", lambda: False)
    with pytest.raises(MissingPackageError, match=r"--optim adamw_8bit: .*bitsandbytes"):
        trainer_of(lora(), tmp_path, optim="adamw_8bit").train()


def test_arguments_and_names_of_transformers_do(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    plain = transformers.TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, disable_tqdm=True)
    trainer = Seq2SeqTrainer(lora(), plain, collate, Rows(4), tokenizer=tokenizer)
    assert trainer.tokenizer is trainer.processing_class is tokenizer
    assert not trainer.args.logging_nan_inf_filter
    trainer.train()
    assert Seq2SeqTrainer(lora(), None, collate, Rows(4)).args.output_dir == "output"
    with pytest.raises(ConfigError, match="predict_with_generate"):
        trainer_of(lora(), tmp_path, predict_with_generate=True)


def test_several_evaluation_sets(tmp_path: Path) -> None:
    sets = {"short": Rows(3, longest=5), "long": Rows(3, longest=20)}
    trainer = trainer_of(lora(), tmp_path, val=sets, max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    seen = [key for entry in trainer.state.log_history for key in entry if key.endswith("_loss")]
    assert seen.count("eval_short_loss") == seen.count("eval_long_loss") == 2


def test_columns_that_the_model_does_not_know_are_dropped(tmp_path: Path) -> None:
    import datasets

    rows = [{**row, "instruction": "x"} for row in Rows(4).rows]
    model = Swift.prepare_model(
        tiny_model(vocab_size=VOCAB, hidden=32),
        {"default": AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=4)},
    )
    trainer = trainer_of(model, tmp_path, train=datasets.Dataset.from_list(rows), max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_experts_that_are_used_unevenly_pay(tmp_path: Path) -> None:
    said = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
    batch = collate([Rows(4)[i] for i in range(4)])
    for wanted in (True, False):
        model = tiny_model("mixtral", vocab_size=VOCAB, hidden=32, output_router_logits=wanted, **said).eval()
        trainer = trainer_of(model, tmp_path)
        trainer.current_gradient_accumulation_steps = 1
        with torch.no_grad():
            assert float(trainer.compute_loss(model, dict(batch))) == pytest.approx(
                float(model(**batch).loss), abs=1e-5
            )
        assert trainer_of(model, tmp_path, val=Rows(4)).evaluate()["eval_loss"] > 0


def test_length_groups_and_prediction(tmp_path: Path) -> None:
    trainer = trainer_of(lora(), tmp_path, group_by_length=True, max_steps=2)
    trainer.train()
    predicted = trainer.predict(Rows(3))
    assert predicted.predictions.shape[0] == 3
    assert predicted.metrics["test_loss"] > 0


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = trainer_of(lora(), tmp_path).args
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started"):
        Seq2SeqTrainer(model=lora(), args=arguments)

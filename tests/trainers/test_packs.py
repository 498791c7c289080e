"""Rows in a pack do not see each other: logits and gradients are those of the rows one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from swift.datasets.pack import join
from swift.errors import ConfigError
from swift.templates.collate import data_collator
from swift.trainers.packs import check_rows_apart, end_to_end, row_of_token
from swift.trainers.tally import count_tokens
from swift.tuners import AdapterConfig, LoraConfig, Swift
from tests.tiny import tiny_model, tiny_tokenizer
from tests.trainers.rows import VOCAB, Packs, Rows, collate_packs, losses, trainer_of, weights

APART: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 3},
    "mistral": {"sliding_window": 3},
    "gpt2": {},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
}
FLEXIBLE = [kind for kind in APART if kind != "gpt2"]  # which has no such attention
NOT_APART: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_layer": 2}, "takes no positions"),
    "opt": ({"ffn_dim": 64}, "goes on from row to row"),
    "jamba": ({"use_mamba_kernels": False}, "goes on from row to row"),
}
ROWS = Rows(7, seed=3).rows


def packs(*sizes: int) -> dict[str, Tensor]:
    """The rows in packs of that many rows, as one batch, padded."""
    rows = iter(ROWS)
    return data_collator([join([next(rows) for _ in range(size)]) for size in sizes], tiny_tokenizer())


def gradients(model: Any, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """Of the sum of all losses."""
    model.zero_grad()
    for batch in batches:
        count = (batch["labels"][:, 1:] != -100).sum()
        (model(**batch, use_cache=False).loss * count).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@torch.no_grad()
def check_logits(model: Any, batch: dict[str, Tensor], alone: list[dict[str, Tensor]]) -> None:
    logits = model(**{name: values for name, values in batch.items() if name != "labels"}, use_cache=False).logits
    every = [model(input_ids=one["input_ids"], use_cache=False).logits[0] for one in alone]
    for pack, rows in zip(logits, (every[:4], every[4:]), strict=True):
        expected = torch.cat(rows)
        torch.testing.assert_close(pack[: len(expected)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", APART)
def test_a_pack_is_its_rows_one_by_one(kind: str, attention: str) -> None:
    model = tiny_model(kind, VOCAB, attn_implementation=attention, **APART[kind]).eval()
    check_rows_apart(model)
    batch = packs(4, 3)
    alone = [data_collator([row], tiny_tokenizer()) for row in ROWS]
    check_logits(model, batch, alone)
    for one, other in zip(gradients(model, [batch]), gradients(model, alone), strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1.0, other.abs().max())


@pytest.mark.parametrize("kind", FLEXIBLE)
def test_a_pack_is_its_rows_with_flexible_attention(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it has no gradients, and what is compiled for changing lengths does not compile."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    model = tiny_model(kind, VOCAB, attn_implementation="flex_attention", **APART[kind]).eval()
    with torch.compiler.set_stance("force_eager"):
        check_rows_apart(model)
        check_logits(model, packs(4, 3), [data_collator([row], tiny_tokenizer()) for row in ROWS])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", FLEXIBLE)
def test_a_pack_is_its_rows_with_flexible_attention_on_a_gpu(kind: str) -> None:  # needs-cuda
    model = tiny_model(kind, VOCAB, attn_implementation="flex_attention", **APART[kind]).eval().cuda()
    pack, alone = [packs(4, 3)], [data_collator([row], tiny_tokenizer()) for row in ROWS]
    pack, alone = ([{name: values.cuda() for name, values in one.items()} for one in found] for found in (pack, alone))
    check_logits(model, pack[0], alone)
    for one, other in zip(gradients(model, pack), gradients(model, alone), strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1.0, other.abs().max())


def test_a_mask_would_let_rows_see_each_other() -> None:
    model, batch = tiny_model("llama", VOCAB).eval(), packs(4)
    ids, positions = batch["input_ids"], batch["position_ids"]
    apart = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    seen = model(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits
    assert (apart - seen).abs().max() > 1e-3


@pytest.mark.parametrize("kind", NOT_APART)
def test_a_model_that_cannot_is_refused_with_the_reason(kind: str) -> None:
    config, reason = NOT_APART[kind]
    model = tiny_model(kind, VOCAB, **config).train()
    with pytest.raises(ConfigError, match="does not keep the rows of a pack apart") as caught:
        check_rows_apart(model)
    assert reason in (caught.value.why or "")
    assert model.training


def test_positions_that_do_not_begin_again_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2", VOCAB)
    forward = model.forward

    def shifted(input_ids: Tensor, position_ids: Tensor, **more: Any) -> Any:
        return forward(input_ids=input_ids, position_ids=position_ids + (position_ids.shape[1] > 8), **more)

    monkeypatch.setattr(model, "forward", shifted)
    with pytest.raises(ConfigError) as caught:
        check_rows_apart(model)
    assert "positions do not begin again" in (caught.value.why or "")


def test_a_batch_of_packs_is_counted_without_its_padding() -> None:
    batch = packs(4, 3)
    assert "attention_mask" not in batch
    assert int(count_tokens(batch)) == sum(len(row["input_ids"]) for row in ROWS) < batch["input_ids"].numel()
    assert int(count_tokens(data_collator(ROWS, tiny_tokenizer()))) == int(count_tokens(batch))


def trained(tmp_path: Any, each: int, batch: int, accumulation: int, scaled: bool = False, **said: Any) -> Any:
    rows = Packs(24, each)
    if scaled:
        rows.rows = [{**row, "loss_scale": [0.5 + i % 3 for i in ids(row)]} for row in rows.rows]
    model = tiny_model("llama", VOCAB, hidden=32)
    trainer = trainer_of(
        model,
        tmp_path / f"{each}-{batch}-{len(said)}",
        rows,
        collator=collate_packs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        max_grad_norm=1.0,
        **said,
    )
    return trainer, model


def ids(row: dict[str, Any]) -> list[int]:
    return [int(i) for i in row["input_ids"]]


@pytest.mark.parametrize("scaled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_step_over_packs_is_the_step_over_their_rows(tmp_path: Any, scaled: bool) -> None:
    ways: list[tuple[int, int, int, dict[str, Any]]] = [(1, 24, 1, {}), (4, 3, 2, {}), (8, 1, 3, {})]
    ways += [(1, 24, 1, {"padding_free": True}), (1, 6, 4, {"padding_free": True})]
    found = []
    for each, batch, accumulation, said in ways:
        trainer, model = trained(tmp_path, each, batch, accumulation, scaled, **said)
        trainer.train()
        found.append((losses(trainer), weights(model)))
    for one, state in found[1:]:
        assert one == pytest.approx(found[0][0], rel=1e-5)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, found[0][1][name], rtol=1e-4, atol=1e-5)


def test_without_padding_none_is_made(tmp_path: Any) -> None:
    batch = end_to_end(ROWS[:3])
    assert {name: values.tolist() for name, values in batch.items()} == {
        name: values.tolist() for name, values in packs(3).items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in ROWS[:3]])
    assert row_of_token(batch["position_ids"]).tolist() == torch.arange(3).repeat_interleave(lengths).tolist()
    trainer, _ = trained(tmp_path, 1, 8, 1, padding_free=True)
    trainer.eval_dataset = Rows(5)
    trainer.train()
    assert trainer.padding.tokens == 0
    assert next(iter(trainer.get_eval_dataloader()))["attention_mask"].shape[0] == 5


@pytest.mark.parametrize("process", [0, 1])
def test_rows_that_fill_up_a_batch_without_padding_are_not_learnt(tmp_path: Any, process: int) -> None:
    """Of 24 rows in batches of 5 for 2 processes the last one has 4 rows, all of the first process's but one."""
    trainer, _ = trained(tmp_path, 1, 5, 1, padding_free=True)
    trainer.args.distributed_state = SimpleNamespace(num_processes=2, process_index=process)
    trainer._n_gpu = 0
    loader = SimpleNamespace(dataset=trainer.train_dataset)
    trainer.accelerator.gradient_state = SimpleNamespace(end_of_dataloader=True, active_dataloader=loader)
    batch = end_to_end(trainer.train_dataset.rows[:5])
    row, before = row_of_token(batch["position_ids"])[None], batch["labels"]
    trainer._mask_repeats(batch)
    real = 4 if process == 0 else 0
    assert torch.equal(batch["labels"], before.masked_fill(row >= real, -100))


@pytest.mark.parametrize("tuned", ["lora", "adapter"])
def test_a_tuned_model_keeps_rows_apart_too(tuned: str) -> None:
    config: Any = LoraConfig(r=2, target_modules=["q_proj"])
    if tuned == "adapter":
        config = AdapterConfig(dim=64, target_modules=["mlp"], adapter_length=4)
    check_rows_apart(Swift.prepare_model(tiny_model("qwen2", VOCAB), config))

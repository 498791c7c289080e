"""The loss in chunks through the head is the loss of the whole logits, and so are all its gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments, head
from swift.trainers import loss as losses
from swift.trainers.loss import IGNORED
from tests.tiny import tiny_model

VOCABULARY = 97
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "own head": ("qwen2", {}),
    "tied": ("qwen2", {"tie_word_embeddings": True}),
    "bias": ("phi", {}),
    "no logits_to_keep": ("gpt2", {}),
    "capped": ("gemma2", {"final_logit_softcapping": 0.3, "head_dim": 16, "query_pre_attn_scalar": 16}),
    "scaled": ("cohere", {"logit_scale": 0.25}),
    "divided": ("granite", {"logits_scaling": 8.0}),
    "experts": (
        "mixtral",
        {
            "num_local_experts": 2,
            "router_aux_loss_coef": 0.1,
            "output_router_logits": True,
            "_experts_implementation": "eager",
        },
    ),
}


def made(name: str) -> Any:
    kind, config = MODELS[name]
    model = tiny_model(kind, vocab_size=VOCABULARY, hidden=32, **config).double()
    if name == "experts":
        model.set_experts_implementation("eager")  # the fused products have no float64
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def batch(scaled: bool, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(3, VOCABULARY, (3, 11), generator=generator)
    labels_BT = ids_BT.masked_fill(torch.rand(3, 11, generator=generator) < 0.5, IGNORED)
    labels_BT[1, 7:] = IGNORED
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 7:] = 0
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    return inputs | ({"loss_scale": torch.rand(3, 11, generator=generator).double() * 2} if scaled else {})


def trainer_of(model: Any, place: Path, **options: Any) -> Seq2SeqTrainer:
    trainer = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(output_dir=str(place), use_cpu=True, **options))
    trainer.current_gradient_accumulation_steps = 1  # which transformers sets when it begins to train
    return trainer


def learnt(model: Any, place: Path, inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
    """The loss, every gradient, and what was counted."""
    trainer = trainer_of(model, place, **options)
    model.zero_grad()
    loss = trainer.compute_loss(model, dict(inputs), num_items_in_batch=torch.tensor(7.0))
    loss.backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), named, trainer._tally.sums


@pytest.mark.parametrize("tuned", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_plain_path(name: str, tuned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "chunk_of", lambda vocabulary: 4)
    model = made(name)
    if tuned:
        model = get_peft_model(model, LoraConfig(target_modules=r".*\.(q_proj|c_attn)", init_lora_weights=False))
    for scaled, smoothing in ((False, 0.0), (True, 0.1)):
        inputs, options = batch(scaled), {"label_smoothing_factor": smoothing}
        expected = learnt(model, tmp_path, inputs, fused_cross_entropy=False, **options)
        got = learnt(model, tmp_path, inputs, **options)
        assert abs(float(got[0] - expected[0])) <= 1e-12
        assert got[1].keys() == expected[1].keys()
        for key, gradient in expected[1].items():
            assert (got[1][key] - gradient).abs().max() <= 1e-12, key
        assert torch.allclose(got[2], expected[2], rtol=1e-12)
        assert got[2][1] == (inputs["labels"][:, 1:] != IGNORED).sum()


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_is_known(name: str) -> None:
    found = head.find_head_loss(made(name), losses.cross_entropy)
    assert isinstance(found, head.HeadLoss), found


def grown(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.clone().requires_grad_() for leaf in leaves]


def grad_of(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


@given(tokens=st.integers(0, 9), chunk=st.integers(1, 10), seed=st.integers(0, 99), smoothing=st.sampled_from([0, 0.2]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_chunks_add_up(tokens: int, chunk: int, seed: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((tokens, 5), (13, 5), (13,))]
    targets_N = torch.randint(13, (tokens,), generator=generator)
    weights_N = torch.rand(tokens, generator=generator, dtype=torch.float64)
    ours, plain = (grown(leaves) for _ in range(2))
    rule = head.Rule(scale=0.5, cap=2.0, smoothing=smoothing)
    loss, right_N = head.ChunkedLoss.apply(*ours, targets_N, weights_N, rule, chunk)
    logits_NV = 2.0 * torch.tanh(0.5 * F.linear(*plain) / 2.0)
    expected = (weights_N * F.cross_entropy(logits_NV, targets_N, reduction="none", label_smoothing=smoothing)).sum()
    assert abs(float((loss - expected).detach())) <= 1e-12
    assert torch.equal(right_N, logits_NV.argmax(1) == targets_N)
    (3 * loss).backward()
    (3 * expected).backward()
    for mine, theirs in zip(ours, plain, strict=True):
        assert torch.allclose(grad_of(mine), grad_of(theirs), rtol=0, atol=1e-12)


def test_float32_and_half_precision() -> None:
    torch.manual_seed(0)
    hidden_NH, head_VH, targets_N = torch.randn(50, 16), torch.randn(300, 16), torch.randint(300, (50,))
    for dtype, near in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        ours, plain = (grown([hidden_NH.to(dtype), head_VH.to(dtype)]) for _ in range(2))
        loss, _ = head.ChunkedLoss.apply(*ours, None, targets_N, None, head.Rule(), 16)
        expected = F.cross_entropy(F.linear(*plain).float(), targets_N, reduction="sum")
        assert loss.dtype == torch.float32
        (loss / 50).backward()
        (expected / 50).backward()
        assert abs(float((loss / expected).detach() - 1)) <= near
        for mine, theirs in zip(ours, plain, strict=True):
            assert grad_of(mine).dtype == dtype
            assert (grad_of(mine) - grad_of(theirs)).abs().max() <= near * grad_of(theirs).abs().max()


def test_likeliest_of_equals_is_the_first() -> None:
    targets_N = torch.tensor([0, 1])
    _, right_N = head.ChunkedLoss.apply(torch.zeros(2, 3), torch.ones(4, 3), None, targets_N, None, head.Rule(), 2)
    assert right_N.tolist() == [True, False]


def test_whole_logits_never_exist() -> None:
    """What is kept for the backward pass is as large as the hidden states, however large the vocabulary."""
    hidden_NH = torch.randn(64, 8, requires_grad=True)
    head_VH, targets_N = torch.randn(5000, 8), torch.randint(5000, (64,))
    seen: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            seen.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor))
            return out

    with Watch():
        head.ChunkedLoss.apply(hidden_NH, head_VH, None, targets_N, None, head.Rule(), 4)[0].backward()
    assert max(seen) == head_VH.numel()
    assert 4 * 5000 in seen
    assert 64 * 5000 not in seen


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: setattr(model, "lm_head", Own(32, VOCABULARY).double()), "head is a Own"),
        (lambda model: model.lm_head.register_forward_hook(lambda *_: None), "hooks"),
        (lambda model: setattr(model, "forward", _doubled(model)), "does something to its logits"),
    ],
)
def test_what_is_not_known_takes_the_plain_path(change: Any, reason: str, tmp_path: Path) -> None:
    model = copy.deepcopy(made("own head"))
    change(model)
    assert reason in str(head.find_head_loss(model, losses.cross_entropy))
    inputs = batch(False)
    assert torch.equal(
        learnt(model, tmp_path, inputs)[0], learnt(model, tmp_path, inputs, fused_cross_entropy=False)[0]
    )


def _doubled(model: Any) -> Any:
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = plain(*args, **kwargs)
        outputs.logits = outputs.logits * 2
        return outputs

    return forward


def test_a_loss_of_a_plug_in_gets_whole_logits(tmp_path: Path) -> None:
    assert "plug-in" in str(head.find_head_loss(made("own head"), lambda logits_NV, targets_N: logits_NV.sum(1)))


def test_the_head_is_itself_again(tmp_path: Path) -> None:
    model = made("own head")
    trainer = trainer_of(model, tmp_path)
    trainer.compute_loss(model, batch(False))
    ids_BT = batch(False)["input_ids"]
    assert model(input_ids=ids_BT).logits.shape == (3, 11, VOCABULARY)
    assert "forward" not in vars(model.lm_head)

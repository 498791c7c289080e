"""Compiled layers learn what plain ones learn, are compiled a few times however batches differ, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor

from swift import checkpoint
from swift.errors import ConfigError, UnknownNameError
from swift.trainers.compiled import check_backend, compiled_layers
from swift.trainers.fused_lora import fused_lora
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, Rows, losses, trainer_of, weights

SIZES = ((2, 7), (3, 9), (4, 12), (2, 5), (3, 12))


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def tuned(dropout: float = 0.0, layers: int = 2) -> Any:
    torch.manual_seed(0)
    model = tiny_model(vocab_size=VOCAB, hidden=32, layers=layers)
    said = LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, said).train()


def learnt(model: Any, sizes: Any = SIZES) -> list[dict[str, Tensor]]:
    """Losses and gradients of batches with padding, from the same random state."""
    torch.manual_seed(1)
    found: list[dict[str, Tensor]] = []
    for rows, length in sizes:
        ids_BT = torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(length))
        mask_BT = torch.ones_like(ids_BT)
        mask_BT[0, -2:] = 0
        model.zero_grad()
        loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=ids_BT, use_cache=False).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach(), **gradients})
    return found


def compare(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    for got, plain in zip(found, expected, strict=True):
        assert got.keys() == plain.keys()
        for name, value in plain.items():
            assert (got[name] - value).abs().max() <= 1e-5 * max(1.0, float(value.abs().max())), name


def test_a_backend_is_known_by_its_name() -> None:
    check_backend("inductor")
    with pytest.raises(UnknownNameError, match="did you mean inductor"):
        check_backend("inducter")


def test_what_does_not_train_computes_as_ever() -> None:
    """No backend is called for an evaluation, and nothing stays on the layers afterwards."""
    asked: list[Any] = []
    model = tuned()
    layers = model.base_model.model.model.layers
    with compiled_layers(model, lambda graph, inputs: asked.append(graph) or graph.forward) as count:  # type: ignore[arg-type]
        assert count == len(layers) == 2
        with torch.no_grad():
            model(input_ids=torch.ones(2, 5, dtype=torch.long))
        model.eval()
        model(input_ids=torch.ones(2, 5, dtype=torch.long))
        assert not asked
    assert all("forward" not in vars(layer) for layer in layers)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dropout"), [("aot_eager", 0.3), ("aot_eager", 0.0), ("inductor", 0.0)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_are_those_of_plain_layers(backend: str, fused: bool, checkpointing: bool, dropout: float) -> None:
    model = tuned(dropout)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def both() -> tuple[Any, Any]:
        expected = learnt(model)
        with compiled_layers(model, backend):
            return learnt(model), expected

    if fused:
        with fused_lora(model):
            found, expected = both()
    else:
        found, expected = both()
    compare(found, expected)


@pytest.mark.slow
def test_a_layer_that_cannot_be_compiled_is_said_in_a_line() -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such kernel")

    model = tuned()
    with pytest.raises(ConfigError, match="no such kernel"), compiled_layers(model, backend):  # type: ignore[arg-type]
        learnt(model)
    assert all("forward" not in vars(layer) for layer in model.base_model.model.model.layers)


@pytest.mark.slow
def test_it_is_compiled_for_kinds_of_batches_and_not_for_each() -> None:
    """Two kinds of layers, the first and those whose input learns too; their number and the sizes do not count."""
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    model = tuned(layers=4)
    with compiled_layers(model, backend):  # type: ignore[arg-type]
        learnt(model, [(rows, length) for length in range(5, 15) for rows in (2, 3)])
    assert len(compiled) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_run_learns_the_same_and_goes_on_exactly(kind: str, tmp_path: Path) -> None:
    """All at once: loss in chunks, fused LoRA, checkpointing, evaluation; resumed from its middle."""

    def run(name: str, resume: str | None = None, **more: Any) -> Any:
        torch.compiler.reset()
        model = tuned() if kind == "lora" else tiny_model(vocab_size=VOCAB, hidden=32)
        said = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
        said |= {"gradient_checkpointing": True, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-3}
        trainer = trainer_of(model, tmp_path / name, Rows(16), Rows(5, seed=3), **said, **more)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    plain, whole = run("plain"), run("whole", torch_compile=True)
    assert whole.args.layer_compiler == "inductor"
    assert not whole.args.torch_compile, "transformers would compile the whole model besides"
    assert losses(whole) == pytest.approx(losses(plain), abs=1e-5)
    after = weights(whole.model)
    for name, value in weights(plain.model).items():
        assert torch.allclose(after[name], value, atol=1e-5), name
    saved = checkpoint.directory_of(str(tmp_path / "whole"), 2)
    files = list(saved.glob("*.safetensors"))
    assert files
    for file in files:
        with safe_open(file, "pt") as tensors:
            assert not any("_orig_mod" in key for key in tensors.keys())  # noqa: SIM118
    for name, value in weights(run("whole", str(saved), torch_compile=True).model).items():
        assert torch.equal(after[name], value), name

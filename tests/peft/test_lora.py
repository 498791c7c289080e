"""LoRAModel: its equation, folding, what is trained, files, and equality with PEFT's LoRA for the same weights."""

from __future__ import annotations

import copy
import inspect
import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from swift.errors import ConfigError, DataError, OutputError, UsageError
from swift.peft import LoRAConfig, LoRAModel
from swift.peft.layers import LoRALayer
from tests.peft.lines import said_lines
from tests.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 4, 5, 6, 7, 8]])
TARGETS = [".*q_proj", ".*v_proj", ".*down_proj"]

said = said_lines


def config(**fields: Any) -> LoRAConfig:
    return LoRAConfig(**{"target_modules": TARGETS, "r": 4, "lora_alpha": 8, **fields})


def moved(model: nn.Module, seed: int = 1) -> nn.Module:
    """A and B away from where they start, as training leaves them."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoRALayer):
            module.lora_A.data += 0.1 * torch.randn_like(module.lora_A)
            module.lora_B.data += 0.1 * torch.randn_like(module.lora_B)
    return model


def tuned(kind: str = "llama", **fields: Any) -> LoRAModel:
    model = LoRAModel(tiny_model(kind).eval(), config(**fields))
    moved(model)
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- the equation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 16 / 4), (True, 16 / 2)])
def test_linear_is_the_equation_in_float64(rslora: bool, scaling: float) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 10)).double()
    w, b = plain[0].weight.detach().clone(), plain[0].bias.detach().clone()
    model = LoRAModel(plain, LoRAConfig(r=4, lora_alpha=16, target_modules="0", dtype="float64", rslora=rslora))
    layer = moved(model).model[0]
    assert layer.lora_A.shape == (6, 4)
    assert layer.lora_B.shape == (4, 10)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    expected = x @ w.T + b + scaling * x @ layer.lora_A @ layer.lora_B
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_conv1d_is_the_equation() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Conv1D(10, 6)).double()
    model = LoRAModel(plain, LoRAConfig(r=2, lora_alpha=6, target_modules="0", dtype="float64"))
    layer = moved(model).model[0]
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = x @ layer.weight + layer.bias + 3 * x @ layer.lora_A @ layer.lora_B
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize("kernel", [1, 3, (3, 2)])
def test_a_convolution_is_one_with_the_summed_kernel(kernel: Any, padding_mode: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, kernel, stride=2, padding=1, dilation=1, padding_mode=padding_mode)).double()
    w = plain[0].weight.detach().clone()
    model = LoRAModel(plain, LoRAConfig(r=2, lora_alpha=6, target_modules="0", dtype="float64"))
    layer = moved(model).model[0]
    assert layer.lora_A.shape == (2, 3, *plain[0].kernel_size)
    assert layer.lora_B.shape == (5, 2, 1, 1)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    dense = copy.deepcopy(model.restore_original_model()[0])
    dense.weight.data = w + 3 * torch.einsum("orab,riyx->oiyx", layer.lora_B, layer.lora_A)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plain", [nn.Linear(6, 24), Conv1D(24, 6)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("parts", [[True, False, True], [True, True, True], [False, True, False]])
@pytest.mark.parametrize("head_dim", [None, 2])
def test_fused_parts_each_have_their_own_product(plain: nn.Module, parts: list[bool], head_dim: int | None) -> None:
    """The dense weight of a fused layer, made block by block: [heads, parts, head_dim], or part after part."""
    torch.manual_seed(0)
    fields = {"target_modules": "0", "enable_lora_list": parts, "head_dim": head_dim, "dtype": "float64"}
    model = LoRAModel(nn.Sequential(plain).double(), LoRAConfig(r=2, lora_alpha=2, **fields))
    layer = moved(model).model[0]
    enabled, d = sum(parts), head_dim or 8
    assert layer.lora_A.shape == (6, 2 * enabled)
    assert layer.lora_B.shape == (2, 8 * enabled)
    dense = torch.zeros(6, 24, dtype=torch.float64)
    for head in range(8 // d):
        for number, part in enumerate(index for index, on in enumerate(parts) if on):
            a = layer.lora_A[:, 2 * number : 2 * number + 2]
            b_start = (head * enabled + number) * d
            out_start = (head * len(parts) + part) * d
            dense[:, out_start : out_start + d] = a @ layer.lora_B[:, b_start : b_start + d]
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    without = copy.deepcopy(model).restore_original_model()
    torch.testing.assert_close(model(x) - without(x), x @ dense, rtol=1e-11, atol=1e-11)
    before = model(x)
    model.merge()
    torch.testing.assert_close(model(x), before, rtol=1e-11, atol=1e-11)


def test_dropout_is_before_a_and_only_in_training() -> None:
    model = LoRAModel(nn.Sequential(nn.Linear(8, 8)), LoRAConfig(target_modules="0", lora_dropout=0.5))
    layer = moved(model).model[0]
    x = torch.randn(4, 8)
    torch.manual_seed(3)
    got = model(x)
    torch.manual_seed(3)
    dropped = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(
        got, nn.functional.linear(x, layer.weight, layer.bias) + dropped @ layer.lora_A @ layer.lora_B
    )
    model.eval()
    assert torch.equal(model(x), model(x))


def test_how_a_and_b_start() -> None:
    layer = LoRAModel(nn.Sequential(nn.Linear(256, 64)), LoRAConfig(r=64, target_modules="0")).model[0]
    assert not layer.lora_B.any()
    assert layer.lora_A.abs().max() <= 1 / math.sqrt(256)
    assert abs(layer.lora_A.std().item() - 1 / math.sqrt(256 * 3)) < 1e-3  # of a uniform distribution


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_starts_as_the_base_model(kind: str) -> None:
    base = tiny_model(kind).eval()
    before = base(input_ids=IDS).logits
    model = LoRAModel(base, config(target_modules=[".*q_proj", ".*c_attn"]))
    assert torch.equal(model(input_ids=IDS).logits, before)


@pytest.mark.parametrize("rslora", [False, True])
def test_equal_to_peft_with_the_same_weights(rslora: bool) -> None:
    ours = tuned(rslora=rslora)
    options = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=rslora)
    theirs = peft.get_peft_model(tiny_model("llama").eval(), options)
    for path, layer in ours.layers().items():
        other: Any = theirs.get_base_model().get_submodule(path)
        other.lora_A["default"].weight.data = layer.lora_A.detach().T.clone()
        other.lora_B["default"].weight.data = layer.lora_B.detach().T.clone()
    torch.testing.assert_close(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, rtol=1e-6, atol=1e-6)
    ours.mark_only_lora_as_trainable()
    ours(input_ids=IDS, labels=IDS).loss.backward()
    theirs(input_ids=IDS, labels=IDS).loss.backward()
    for path, layer in ours.layers().items():
        other = theirs.get_base_model().get_submodule(path)
        torch.testing.assert_close(layer.lora_A.grad.T, other.lora_A["default"].weight.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.lora_B.grad.T, other.lora_B["default"].weight.grad, rtol=1e-5, atol=1e-6)


# --- folding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_eval_folds_and_train_gives_every_bit_back(dtype: torch.dtype) -> None:
    model = moved(LoRAModel(tiny_model("llama").to(dtype), config(merge_weights=True)))
    before = weights(model.model)
    for _ in range(3):
        model.eval()
        folded = weights(model.model)
        changed = {name for name in before if not torch.equal(folded[name], before[name])}
        assert changed == {f"{path}.weight" for path in model.layers()}
        model.eval()
        assert all(torch.equal(folded[name], p) for name, p in weights(model.model).items())
        model.train()
        model.train()
        assert all(torch.equal(before[name], p) for name, p in weights(model.model).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_answers_as_unfolded(dtype: torch.dtype) -> None:
    model = moved(LoRAModel(tiny_model("llama").eval().to(dtype), config(merge_weights=True)))
    before = model(input_ids=IDS).logits
    model.eval()
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.1, 0.1)
    torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=rtol, atol=atol)


def test_without_merge_weights_eval_leaves_the_weights() -> None:
    model = tuned()
    before = weights(model.model)
    model.eval()
    assert all(torch.equal(before[name], p) for name, p in weights(model.model).items())
    model.merge()
    assert all(layer.merged for layer in model.layers().values())
    model.unmerge()
    assert all(torch.equal(before[name], p) for name, p in weights(model.model).items())
    model.merge()
    model.train()
    assert not any(layer.merged for layer in model.layers().values())


def test_folded_and_moved_to_another_dtype() -> None:
    model = tuned(merge_weights=True)
    model.train()
    model.eval().to(torch.bfloat16)
    model.train()
    expected = tiny_model("llama").to(torch.bfloat16).state_dict()
    assert all(torch.equal(p, expected[name]) for name, p in model.model.state_dict().items() if "lora_" not in name)


def test_a_checkpoint_made_while_folded_is_right() -> None:
    """Trainers evaluate, which folds, and save before they train on."""
    model = tuned(merge_weights=True).train()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = nn.ModuleDict({"module": model.eval()})
    state = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    assert state.keys() == {f"module.{name}" for name in expected}
    assert all(torch.equal(state[f"module.{name}"], tensor) for name, tensor in expected.items())
    folded = model.model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(folded, expected["model.model.layers.0.self_attn.q_proj.weight"])
    other = nn.ModuleDict({"module": LoRAModel(tiny_model("llama", seed=7), config(merge_weights=True)).eval()})
    other.load_state_dict(state)
    assert torch.equal(other["module"](input_ids=IDS).logits, model(input_ids=IDS).logits)
    other.train()
    assert all(torch.equal(state[name], tensor) for name, tensor in other.state_dict().items())


def test_a_tied_weight_is_not_folded() -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    with pytest.raises(ConfigError, match=r"the weight of lm_head is also model.embed_tokens.weight"):
        LoRAModel(model, config(target_modules=["lm_head"], merge_weights=True))
    assert type(model.lm_head) is nn.Linear
    free = LoRAModel(tiny_model("llama", tie_word_embeddings=True), config(target_modules=["lm_head"]))
    with pytest.raises(ConfigError, match="folding would change both"):
        free.merge()


def test_restored_is_the_base_model() -> None:
    base = tiny_model("llama").eval()
    kinds = {path: type(module) for path, module in base.named_modules()}
    before, logits = weights(base), base(input_ids=IDS).logits
    model = LoRAModel(base, config(merge_weights=True))
    moved(model).eval()
    restored = model.restore_original_model()
    assert restored is base
    assert {path: type(module) for path, module in base.named_modules()} == kinds
    assert weights(base).keys() == before.keys()
    assert torch.equal(restored(input_ids=IDS).logits, logits)
    again = LoRAModel(restored, config())
    assert again.layers()


# --- what is trained --------------------------------------------------------------------------------------------------


def test_nothing_is_frozen_before_it_is_asked_for() -> None:
    assert all(p.requires_grad for p in LoRAModel(tiny_model("llama"), config()).parameters())


def test_what_is_marked_as_trainable() -> None:
    def trained(**fields: Any) -> set[str]:
        model = LoRAModel(tiny_model("qwen2"), config(target_modules=".*q_proj", **fields))
        model.mark_only_lora_as_trainable()
        assert set(model.get_trainable_state_dict()) == {
            n for n, p in model.model.named_parameters() if p.requires_grad
        }
        return set(model.get_trainable_state_dict())

    q = "model.layers.{}.self_attn.q_proj.{}"
    lora = {q.format(i, name) for i in range(2) for name in ("lora_A", "lora_B")}
    biases = {q.format(i, "bias") for i in range(2)}
    assert trained() == lora
    assert trained(trainable_bias="lora") == lora | biases
    others = {f"model.layers.{i}.self_attn.{name}_proj.bias" for i in range(2) for name in "kv"}
    assert trained(trainable_bias="all") == lora | biases | others
    assert trained(trainable_modules=[".*embed_tokens.*"]) == lora | {"model.embed_tokens.weight"}
    assert trained(trainable_modules="lm_head.weight") == lora | {"lm_head.weight"}
    assert trained(trainable_modules=["embed_tokens"]) == lora  # matched as a whole


def test_the_line_about_parameters(said: list[str]) -> None:
    model = LoRAModel(nn.Sequential(nn.Linear(10, 10, bias=False)), LoRAConfig(r=1, target_modules="0"))
    model.mark_only_lora_as_trainable()
    assert model.print_trainable_parameters() is None
    line = (
        "Frozen parameters: 1.00e+02 || Trainable parameters:2.00e+01 || Total parameters:1.20e+02|| Trainable:16.67%"
    )
    assert said[-1] == line


def test_b_learns_faster_with_lora_plus_scale() -> None:
    model = tuned(lora_plus_scale=16.0)
    model.mark_only_lora_as_trainable()
    groups = model.create_optimizer_param_groups(lr=1e-3, weight_decay=0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, p in model.model.named_parameters():
        expected = {"lora_A": 1e-3, "lora_B": 16e-3}.get(name.rpartition(".")[2])
        assert rates.get(id(p)) == expected
    assert {group["weight_decay"] for group in groups} == {0.1}
    before = weights(model.model)
    model(input_ids=IDS, labels=IDS).loss.backward()
    torch.optim.SGD(groups).step()
    layer = next(iter(model.layers().values()))
    path = next(iter(model.layers()))
    grad = (layer.lora_B.grad + 0.1 * before[f"{path}.lora_B"]) * -16e-3
    torch.testing.assert_close(layer.lora_B - before[f"{path}.lora_B"], grad, rtol=1e-3, atol=1e-6)
    with pytest.raises(UsageError, match="needs lr"):
        model.create_optimizer_param_groups()
    assert len(tuned().create_optimizer_param_groups(lr=1e-3)) == 1
    assert "lr" not in tuned().create_optimizer_param_groups()[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains_under_trainer(tmp_path: Path, checkpointing: bool) -> None:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    model = LoRAModel(tiny_model("llama"), config(r=16, lora_alpha=64, merge_weights=True))
    model.mark_only_lora_as_trainable()
    frozen = {name: p for name, p in weights(model.model).items() if "lora_" not in name}
    rows = Dataset.from_list([{"input_ids": IDS[0].tolist(), "labels": IDS[0].tolist(), "unused": 1}] * 8)
    arguments = TrainingArguments(
        tmp_path, max_steps=20, learning_rate=2e-2, report_to=[], save_strategy="no", use_cpu=True, logging_steps=1,
        gradient_checkpointing=checkpointing, eval_strategy="steps", eval_steps=10,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    model.train()
    assert all(torch.equal(frozen[name], weights(model.model)[name]) for name in frozen)


def test_torch_compile() -> None:
    model = tuned()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_bfloat16_with_float32_lora_and_autocast() -> None:
    model = LoRAModel(tiny_model("llama").to(torch.bfloat16), config(dtype=torch.float32))
    moved(model)
    model.mark_only_lora_as_trainable()
    out = model(input_ids=IDS, labels=IDS)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    layer = next(iter(model.layers().values()))
    assert layer.lora_A.dtype == torch.float32
    assert layer.lora_A.grad.abs().sum() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(input_ids=IDS).logits).all()


# --- targets ----------------------------------------------------------------------------------------------------------


def test_patterns_match_whole_paths() -> None:
    model = LoRAModel(tiny_model("llama"), config(target_modules=[r".*layers\.1.*q_proj"]))
    assert list(model.layers()) == ["model.layers.1.self_attn.q_proj"]
    with pytest.raises(ValueError, match="matches no module") as caught:
        LoRAModel(tiny_model("llama"), config(target_modules=["q_proj"]))
    assert ".*q_proj.*" in str(caught.value)


def test_a_pattern_that_matches_nothing_is_said(said: list[str]) -> None:
    LoRAModel(tiny_model("llama"), config(target_modules=[".*q_proj", ".*c_attn"]))
    assert "target_modules: '.*c_attn' matches no module of the model" in said


def test_two_patterns_for_one_layer_make_one_lora() -> None:
    model = LoRAModel(tiny_model("llama"), config(target_modules=[".*q_proj", ".*0.*q_proj"]))
    assert len(model.layers()) == 2


def test_a_layer_used_twice_stays_one_layer(tmp_path: Path) -> None:
    inner = nn.Linear(4, 4)
    model = LoRAModel(nn.ModuleDict({"a": inner, "b": inner}), LoRAConfig(target_modules="a|b", merge_weights=True))
    assert model.model["a"] is model.model["b"]
    model.mark_only_lora_as_trainable()
    model.save_pretrained(tmp_path)
    LoRAModel.from_pretrained(copy.deepcopy(model).restore_original_model(), tmp_path)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (nn.Sequential(nn.Embedding(4, 4)), "0"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0"),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4))), "0"),
        (nn.Sequential(nn.LayerNorm(4)), ".*"),
    ],
    ids=["Embedding", "grouped", "container", "LayerNorm"],
)
def test_what_has_no_lora_is_refused_and_nothing_is_changed(model: nn.Module, target: str) -> None:
    before = str(model)
    with pytest.raises(ValueError, match="target_modules matches 0, a "):
        LoRAModel(model, LoRAConfig(target_modules=target))
    assert str(model) == before


def test_lora_twice_is_refused() -> None:
    base = tiny_model("llama")
    LoRAModel(base, config())
    with pytest.raises(ConfigError, match="has LoRA already"):
        LoRAModel(base, config())


def test_no_targets_is_the_base_model_and_is_said(said: list[str]) -> None:
    assert LoRAModel(tiny_model("llama"), LoRAConfig()).layers() == {}
    assert any(line.startswith("target_modules is None: no layer gets LoRA") for line in said)


@pytest.mark.parametrize(
    ("targets", "enabled"),
    [
        (".*c_attn", [[True, False, True]]),
        (".*c_attn", True),
        ([".*c_attn"], [True, False, True]),
        ([".*c_attn"], [[True], [False]]),
        ([".*c_attn"], [[1, 0, 1]]),
        ([".*c_attn"], "TFT"),
    ],
)
def test_an_enable_lora_list_of_another_shape(targets: Any, enabled: Any) -> None:
    with pytest.raises(TypeError, match="enable_lora_list"):
        LoRAModel(tiny_model("gpt2"), LoRAConfig(target_modules=targets, enable_lora_list=enabled))


@pytest.mark.parametrize(
    "fields", [{"enable_lora_list": [False] * 3}, {"enable_lora_list": [True] * 5}, {"head_dim": 9}]
)
def test_parts_that_do_not_fit_the_layer(fields: dict[str, Any]) -> None:
    fields = {"enable_lora_list": [True, False, True], **fields}
    with pytest.raises(ConfigError, match="outputs"):
        LoRAModel(tiny_model("gpt2"), LoRAConfig(target_modules=".*c_attn", **fields))


def test_queries_and_values_of_gpt2(tmp_path: Path) -> None:
    """A fused layer of a real model: the keys stay those of the base."""
    fields = {"target_modules": [".*c_attn"], "enable_lora_list": [[True, False, True]]}
    model = LoRAModel(tiny_model("gpt2").eval(), LoRAConfig(r=4, **fields))
    layer = next(iter(moved(model).layers().values()))
    difference = layer.delta_weight()
    assert not difference[:, 64:128].any()
    assert difference[:, :64].all()
    assert difference[:, 128:].all()
    model.mark_only_lora_as_trainable()
    model.save_pretrained(tmp_path)
    loaded = LoRAModel.from_pretrained(tiny_model("gpt2").eval(), tmp_path)
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


# --- files ------------------------------------------------------------------------------------------------------------


def saved(directory: Path, **fields: Any) -> LoRAModel:
    model = tuned(**fields)
    model.mark_only_lora_as_trainable()
    model.save_pretrained(directory)
    return model


def test_the_files_are_plain_tensors_and_json(tmp_path: Path) -> None:
    model = saved(tmp_path)
    tensors = torch.load(tmp_path / "lora_model_state.pdparams", weights_only=True)
    assert tensors.keys() == model.get_trainable_state_dict().keys()
    values = json.loads((tmp_path / "lora_config.json").read_text())
    assert values["scaling"] == 2.0
    assert values["dtype"] is None
    assert LoRAConfig.from_pretrained(tmp_path) == model.lora_config


def test_loaded_is_equal_bit_for_bit_also_by_the_misprint(tmp_path: Path) -> None:
    model = saved(tmp_path)
    expected = model(input_ids=IDS).logits
    assert torch.equal(LoRAModel.from_pretrained(tiny_model("llama").eval(), tmp_path)(input_ids=IDS).logits, expected)
    (tmp_path / "lora_model_state.pdparams").rename(tmp_path / "lora_mode_state.pdparams")
    loaded = LoRAModel.from_pretrained(tiny_model("llama").eval(), tmp_path, lora_config=config())
    assert torch.equal(loaded(input_ids=IDS).logits, expected)


def test_saved_while_folded_is_saved_unfolded(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"merge_weights": True, "trainable_modules": [".*q_proj.weight"]}
    model = tuned(**fields)
    model.mark_only_lora_as_trainable()
    model.train()
    expected = model.get_trainable_state_dict()
    model.eval().save_pretrained(tmp_path)
    loaded = LoRAModel.from_pretrained(tiny_model("llama", seed=1), tmp_path).eval().train()
    loaded.mark_only_lora_as_trainable()
    got = loaded.get_trainable_state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_weights_of_linear_layers_lie_as_in_paddle(tmp_path: Path) -> None:
    saved(tmp_path, trainable_modules=["lm_head.weight", ".*embed_tokens.weight"])
    tensors = torch.load(tmp_path / "lora_model_state.pdparams", weights_only=True)
    assert tensors["lm_head.weight"].shape == (64, 400)  # [in, out]
    assert tensors["model.embed_tokens.weight"].shape == (400, 64)


def test_a_variant_and_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned()
    model.save_pretrained(tmp_path / "a", variant="best")
    assert (tmp_path / "a" / "lora_model_state.best.pdparams").is_file()
    model.save_pretrained(tmp_path / "b", is_main_process=False)
    monkeypatch.setenv("RANK", "1")
    model.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        model.save_pretrained(tmp_path / "file", is_main_process=True)


def test_without_weights_it_starts_new_and_says_so(tmp_path: Path, said: list[str]) -> None:
    config().save_pretrained(tmp_path)
    model = LoRAModel.from_pretrained(tiny_model("llama"), tmp_path)
    assert "lora_model_state.pdparams does not exist: the weights start new" in said[-1]
    assert not any(layer.lora_B.any() for layer in model.layers().values())


def test_set_state_dict_also_while_folded() -> None:
    source, target = tuned(), LoRAModel(tiny_model("llama").eval(), config())
    source.mark_only_lora_as_trainable()
    target.merge()
    target.set_state_dict(source.get_trainable_state_dict())
    assert all(layer.merged for layer in target.layers().values())
    target.unmerge()
    assert torch.equal(target(input_ids=IDS).logits, source(input_ids=IDS).logits)
    with pytest.raises(DataError, match=r"1 not in the model: lm_tail.weight"):
        target.set_state_dict({"lm_tail.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"r": 8}, "12 of another shape: model.layers.0.self_attn.q_proj.lora_A (64, 4), not (64, 8)"),
        ({"target_modules": [".*q_proj"]}, "not in the model"),
        ({"target_modules": [*TARGETS, ".*k_proj"]}, "4 missing: model.layers.0.self_attn.k_proj.lora_A"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    saved(tmp_path)
    with pytest.raises(DataError) as caught:
        LoRAModel.from_pretrained(tiny_model("llama"), tmp_path, lora_config=config(**fields))
    assert says in str(caught.value)


def test_names_that_begin_with_the_kind_of_model(tmp_path: Path) -> None:
    """PaddleNLP says llama.layers.0..., transformers model.layers.0..."""
    model = saved(tmp_path, trainable_modules=[".*k_proj.weight"])
    file = tmp_path / "lora_model_state.pdparams"
    tensors = torch.load(file, weights_only=True)
    torch.save({f"llama.{name.partition('.')[2]}": tensor for name, tensor in tensors.items()}, file)
    loaded = LoRAModel.from_pretrained(tiny_model("llama").eval(), tmp_path)
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("root", ["model", "llama"])
def test_files_of_several_tensor_parallel_ranks(tmp_path: Path, root: str) -> None:
    """A column layer's B and a row layer's A are split, the others are the same in each file."""
    model = saved(tmp_path)
    (tmp_path / "lora_model_state.pdparams").unlink()
    split: list[dict[str, Tensor]] = [{}, {}]
    for name, tensor in model.get_trainable_state_dict().items():
        row = "down_proj" in name
        axis = 0 if row and name.endswith("lora_A") else 1 if not row and name.endswith("lora_B") else None
        pieces = [tensor, tensor] if axis is None else tensor.chunk(2, axis)
        for rank in range(2):
            split[rank][name.replace("model", root, 1)] = pieces[rank].clone()
    for rank in range(2):
        torch.save(split[rank], tmp_path / f"lora_model_state.tp{rank:02d}.pdparams")
    config(tensor_parallel_degree=2).save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="split over 2 devices"):
        LoRAModel.from_pretrained(tiny_model("llama").eval(), tmp_path)
    loaded = LoRAModel.from_pretrained(tiny_model("llama").eval(), tmp_path, merge_tensor_parallel=True)
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert loaded.lora_config.tensor_parallel_degree == 1
    del split[1][next(iter(split[1]))]
    torch.save(split[1], tmp_path / "lora_model_state.tp01.pdparams")
    with pytest.raises(DataError, match="not in every tensor-parallel file"):
        LoRAModel.from_pretrained(tiny_model("llama"), tmp_path, merge_tensor_parallel=True)
    (tmp_path / "lora_model_state.tp01.pdparams").unlink()
    with pytest.raises(DataError, match=r"lacks lora_model_state.tp01.pdparams of 2"):
        LoRAModel.from_pretrained(tiny_model("llama"), tmp_path, merge_tensor_parallel=True)


# --- standing around the model ----------------------------------------------------------------------------------------


def test_attributes_signature_and_generation_are_those_of_the_base() -> None:
    base = tiny_model("llama").eval()
    signature = inspect.signature(base.forward)
    model = LoRAModel(base, config())
    assert model.config is base.config
    assert inspect.signature(model.forward) == signature
    assert model.generate(input_ids=IDS, max_new_tokens=3, do_sample=False).shape == (2, 9)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = model.nothing_like_this
    with pytest.raises(ConfigError, match="AI Studio"):
        model.save_to_aistudio("me/model")


def test_a_class_without_an_instance_still_runs_forward() -> None:
    model = tuned()
    out = LoRAModel.forward(model, input_ids=IDS, labels=IDS)
    assert torch.equal(out.logits, model(input_ids=IDS).logits)
    assert out.loss is not None


@pytest.mark.parametrize("folded", [False, True])
def test_deepcopy(folded: bool) -> None:
    model = tuned(merge_weights=True)
    model.train(not folded)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(input_ids=IDS).logits, model(input_ids=IDS).logits)
    before = weights(model.model)
    moved(twin, seed=5).train()
    twin.restore_original_model()
    assert all(torch.equal(before[name], p) for name, p in weights(model.model).items())
    assert "LoRALinear(in_features=64" in str(model)
    assert "rank=4" in str(model)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"r": 0}, "r=0"),
        ({"r": 2.5}, "r=2.5"),
        ({"r": True}, "r=True"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
        ({"trainable_bias": "some"}, "trainable_bias='some'"),
        ({"lora_plus_scale": 0.0}, "lora_plus_scale"),
        ({"do_qat": True}, "do_qat"),
        ({"dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_values_that_make_no_sense(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        LoRAModel(tiny_model("llama"), config(**fields))

"""Prefix tuning: its equation, PEFT's for the same weights, masks, generation, files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn

from swift import peft as paddle
from swift.errors import ConfigError, DataError, UsageError
from swift.peft import PrefixConfig, PrefixModel, PrefixModelForCausalLM, load_pre_caches
from swift.peft.hooks import prefix_attention_mask, split_layers
from tests.peft.lines import said_lines
from tests.tiny import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 4, 5, 6, 7, 8]])
N = 3
said = said_lines


def config(kind: str = "llama", **fields: Any) -> PrefixConfig:
    shape = {"num_prefix_tokens": N, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64}
    return PrefixConfig(**{**shape, **fields})


def tuned(kind: str = "llama", base: nn.Module | None = None, **fields: Any) -> PrefixModelForCausalLM:
    model = PrefixModelForCausalLM(base or tiny_model(kind).eval(), config(**fields))
    torch.manual_seed(1)
    for p in model.prefix_encoder.parameters():
        p.data = torch.randn_like(p)
    return model.eval()


@pytest.mark.parametrize("projection", [False, True])
def test_the_encoder_is_the_equation(projection: bool) -> None:
    model = tuned(prefix_projection=projection, prefix_projection_hidden_size=20, dtype="float64")
    state = model.prefix_encoder.state_dict()
    width = 2 * 16  # two heads of keys and values of 16
    flat = state["0.weight"]
    if projection:
        assert {key: tuple(value.shape) for key, value in state.items()} == {
            "0.weight": (N, width), "1.weight": (20, width), "1.bias": (20,),
            "3.weight": (4 * width, 20), "3.bias": (4 * width,),
        }  # fmt: skip
        flat = torch.tanh(flat @ state["1.weight"].T + state["1.bias"]) @ state["3.weight"].T + state["3.bias"]
    assert flat.shape == (N, 4 * width)
    blocks = flat.reshape(N, 2, 2, 2, 16).float()  # keys and values, layers, heads
    for layer, (key, value) in enumerate(model.past_key_values(2)):
        assert key.shape == value.shape == (2, 2, N, 16)
        torch.testing.assert_close(key[1], blocks[:, 0, layer].transpose(0, 1))
        torch.testing.assert_close(value[0], blocks[:, 1, layer].transpose(0, 1))


def test_dropout_of_the_prefix() -> None:
    model = tuned(prefix_dropout=0.5)
    assert torch.equal(model.past_key_values(1)[0][0], model.past_key_values(1)[0][0])
    model.train()
    assert (model.past_key_values(1)[0][0] == 0).float().mean() > 0.2


def test_attention_with_the_prefix_by_hand() -> None:
    """One layer of softmax attention over prefix and text, in float64, from the model's own projections."""
    base = tiny_model("gpt2", layers=1).eval().double()
    model = tuned(base=base, num_hidden_layers=1, dtype="float64")
    (key, value), attention = model.past_key_values(2)[0], base.transformer.h[0].attn
    caught: dict[str, Tensor] = {}
    attention.c_attn.register_forward_hook(lambda _, args, out: caught.update(qkv=out))
    attention.c_proj.register_forward_hook(lambda _, args, out: caught.update(heads=args[0]))
    model(input_ids=IDS)
    q, k, v = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in caught["qkv"].chunk(3, -1))
    k, v = torch.cat([key, k], 2), torch.cat([value, v], 2)
    scores = q @ k.transpose(-1, -2) / 4
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    scores[..., N:] = scores[..., N:].masked_fill(hidden, -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(caught["heads"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "bloom"])
@pytest.mark.parametrize("masked", [False, True])
def test_equal_to_peft_with_the_same_weights(kind: str, masked: bool) -> None:
    shape: dict[str, Any] = {"num_key_value_heads": 4} if kind == "bloom" else {}
    groups = 4 if kind in ("gpt2", "bloom") else 2
    ours = tuned(base=tiny_model(kind, **shape).eval())
    options = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=N, num_layers=2, num_attention_heads=groups, token_dim=16 * groups
    )
    theirs = peft.get_peft_model(tiny_model(kind, **shape).eval(), options).eval()
    # PEFT has the keys and values of a layer beside each other, PaddleNLP all keys first.
    table = ours.prefix_encoder[0].weight.detach().unflatten(-1, (2, 2, -1)).transpose(1, 2).flatten(1)
    theirs.prompt_encoder["default"].embedding.weight.data = table
    inputs = {"input_ids": IDS}
    if masked:
        inputs["attention_mask"] = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits, rtol=1e-6, atol=1e-6)
    ours(**inputs, labels=IDS).loss.backward()
    theirs(**inputs, labels=IDS).loss.backward()
    grad = theirs.prompt_encoder["default"].embedding.weight.grad.unflatten(-1, (2, 2, -1)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(ours.prefix_encoder[0].weight.grad, grad, rtol=1e-5, atol=1e-6)


# --- masks and positions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masks_of_two_three_and_four_dimensions_say_the_same(attention: str) -> None:
    base = tiny_model("llama").eval()
    base.set_attn_implementation(attention)
    model = tuned(base=base)
    seen = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    causal = torch.ones(6, 6, dtype=torch.long).tril() * seen[:, None]
    added = torch.zeros(2, 1, 6, 6).masked_fill(causal[:, None] == 0, -torch.inf)
    expected = model(input_ids=IDS, attention_mask=seen).logits
    for mask in (
        causal,
        causal.bool(),
        causal[:, None],
        causal[:, None].bool(),
        added,
        causal[:, None].expand(-1, 4, -1, -1),
    ):
        torch.testing.assert_close(model(input_ids=IDS, attention_mask=mask).logits, expected, rtol=1e-5, atol=1e-5)


def test_masks_with_the_prefix() -> None:
    two = prefix_attention_mask((1, 2), 2, torch.tensor([[0, 1]]))
    assert two.tolist() == [[1, 1, 0, 1]]
    four = prefix_attention_mask((1, 2), 1, torch.tensor([[[True, False], [True, True]]]))
    assert four.shape == (1, 1, 2, 3)
    assert four[0, 0, 0].tolist() == [0, 0, -torch.inf]
    with pytest.raises(ValueError, match="2, 3 or 4"):
        prefix_attention_mask((1, 2), 1, torch.ones(2))


def test_a_hook_for_the_mask_and_one_for_the_keys() -> None:
    def pad(shape: Any, n: int, mask: Tensor) -> Tensor:
        assert tuple(shape) == (2, 6)
        return prefix_attention_mask(shape, n, mask)

    def post(past_BNLHD: Tensor) -> list[tuple[Tensor, Tensor]]:
        assert past_BNLHD.shape == (2, N, 4, 2, 16)
        return split_layers(past_BNLHD)

    plain = tuned()
    hooked = PrefixModelForCausalLM(plain.model, config(), postprocess_past_key_value=post, pad_attention_mask=pad)
    hooked.set_state_dict(plain.prefix_encoder.state_dict())
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    assert torch.equal(hooked(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("name", ["llama", "bloom", "chatglm", "qwen"])
def test_the_names_of_paddlenlps_hooks(name: str) -> None:
    assert getattr(paddle, f"{name}_postprocess_past_key_value") is split_layers


def test_positions_are_those_of_the_text() -> None:
    model = tuned()
    expected = model(input_ids=IDS).logits
    positions = torch.arange(6)[None]
    torch.testing.assert_close(model(input_ids=IDS, position_ids=positions).logits, expected, rtol=1e-5, atol=1e-5)


def test_inputs_by_position_and_as_embeddings() -> None:
    model = tuned()
    expected = model(input_ids=IDS).logits
    assert torch.equal(model(IDS).logits, expected)
    embedded = model.get_input_embeddings()(IDS)
    assert torch.equal(model(inputs_embeds=embedded).logits, expected)


def test_a_cache_goes_on_without_a_second_prefix() -> None:
    model = tuned()
    whole = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    first = model(input_ids=IDS[:, :4], use_cache=True)
    assert first.past_key_values.get_seq_length() == N + 4
    rest = model(input_ids=IDS[:, 4:], attention_mask=torch.ones_like(IDS), past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, whole[:, 4:], rtol=1e-5, atol=1e-5)


# --- generation -------------------------------------------------------------------------------------------------------


def greedy(model: nn.Module, ids: Tensor, steps: int) -> Tensor:
    """Generation by hand: the whole text again at each step, no cache."""
    for _ in range(steps):
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_that_by_hand(kind: str, use_cache: bool) -> None:
    model = tuned(kind)
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": use_cache, "eos_token_id": None}
    got = model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), **options)
    assert torch.equal(got, greedy(model, IDS, 6))
    assert not torch.allclose(model(input_ids=IDS).logits, model.model(input_ids=IDS).logits, atol=0.01)


def test_the_prefix_is_injected_at_the_first_step_only() -> None:
    model = tuned()
    calls = []
    model.prefix_encoder.register_forward_hook(lambda *_: calls.append(1))
    model.generate(input_ids=IDS, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert len(calls) == 1
    assert "prepare_inputs_for_generation" not in vars(model.model)


def test_padded_rows_and_beams() -> None:
    model = tuned()
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), IDS[:1, :4]], 1)
    rows = torch.cat([padded, IDS[1:]])
    mask = torch.ones_like(rows)
    mask[0, :2] = 0
    both = model.generate(input_ids=rows, attention_mask=mask, **options)
    assert torch.equal(both[0, 6:], model.generate(input_ids=IDS[:1, :4], **options)[0, 4:])
    assert torch.equal(both[1], model.generate(input_ids=IDS[1:], **options)[0])
    beams = model.generate(input_ids=IDS, num_beams=3, **options)
    alone = torch.cat([model.generate(input_ids=row[None], num_beams=3, **options) for row in IDS])
    assert torch.equal(beams, alone)


def test_what_generation_refuses() -> None:
    model = tuned()
    with pytest.raises(ValueError, match="input_ids must be given"):
        model.generate(attention_mask=torch.ones_like(IDS))
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    with pytest.raises(UsageError, match="past_key_values must be empty"):
        model.generate(input_ids=IDS, past_key_values=cache)
    with pytest.raises(ConfigError, match="no room for the prefix"):
        model.generate(input_ids=IDS, cache_implementation="static", max_new_tokens=2)
    assert "prepare_inputs_for_generation" not in vars(model.model)


def test_a_hook_of_the_users_own_survives_generation() -> None:
    model = tuned()
    base: Any = model.model
    own = base.prepare_inputs_for_generation
    base.prepare_inputs_for_generation = own
    model.generate(input_ids=IDS, max_new_tokens=1)
    assert vars(base)["prepare_inputs_for_generation"] == own


# --- shapes of the model ----------------------------------------------------------------------------------------------


def test_heads_of_keys_and_values_come_from_the_model(said: list[str]) -> None:
    model = tuned()
    assert model.prefix_config.multi_query_group_num == 2
    assert "multi_query_group_num is 2, the model's heads of keys and values" in said
    assert tuned(multi_query_group_num=2).past_key_values(1)[0][0].shape == (1, 2, N, 16)
    wide = PrefixModelForCausalLM(tiny_model("qwen3", head_dim=24).eval(), config())
    assert wide.past_key_values(1)[0][0].shape == (1, 2, N, 24)
    assert torch.isfinite(wide(input_ids=IDS).logits).all()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers=3, the model's is 2"),
        ({"num_attention_heads": 8}, "num_attention_heads=8, the model's is 4"),
        ({"hidden_size": 32}, "hidden_size=32, the model's is 64"),
        ({"multi_query_group_num": 4}, "the model has 2 heads of keys and values"),
        ({"num_prefix_tokens": None}, "num_prefix_tokens=None"),
        ({"num_prefix_tokens": 0}, "num_prefix_tokens=0"),
        ({"prefix_projection": True}, "prefix_projection_hidden_size=None"),
        ({"prefix_dropout": 1}, "prefix_dropout=1"),
        ({"dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_configs_that_make_no_sense(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PrefixModelForCausalLM(tiny_model("llama"), config(**fields))


def test_a_model_without_a_cache_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="takes no past_key_values"):
        PrefixModelForCausalLM(nn.Linear(2, 2), config())


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True])
def test_it_trains_under_trainer(tmp_path: Path, projection: bool) -> None:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    model = PrefixModel(tiny_model("llama"), config(prefix_projection=projection, prefix_projection_hidden_size=64))
    model.mark_only_prefix_as_trainable()
    before = {name: p.clone() for name, p in model.model.state_dict().items()}
    rows = Dataset.from_list([{"input_ids": IDS[0].tolist(), "labels": IDS[0].tolist(), "unused": 1}] * 8)
    arguments = TrainingArguments(
        tmp_path, max_steps=20, learning_rate=0.1, report_to=[], save_strategy="no", use_cpu=True, logging_steps=1
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    assert trainer.evaluate()["eval_loss"] < losses[0] - 0.1
    assert all(torch.equal(before[name], p) for name, p in model.model.state_dict().items())


def test_gradient_checkpointing_is_refused_in_training() -> None:
    model = tuned()
    model.gradient_checkpointing_enable()
    model(input_ids=IDS)
    model.train()
    with pytest.raises(ConfigError, match="gradient checkpointing"):
        model(input_ids=IDS)


def test_bfloat16_and_deepcopy() -> None:
    model = tuned(base=tiny_model("llama").eval().to(torch.bfloat16))
    out = model(input_ids=IDS, attention_mask=torch.ones(2, 6, 6, dtype=torch.long).tril())
    assert out.logits.dtype == torch.bfloat16
    out.logits.float().sum().backward()
    assert model.prefix_encoder[0].weight.grad.dtype == torch.float32
    twin = copy.deepcopy(model)
    assert torch.equal(twin(input_ids=IDS).logits, model(input_ids=IDS).logits)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [False, True])
def test_saved_and_loaded_is_equal_bit_for_bit(tmp_path: Path, projection: bool) -> None:
    model = tuned(prefix_projection=projection, prefix_projection_hidden_size=20, prefix_dropout=0.1)
    model.train().save_pretrained(tmp_path)
    assert model.prefix_encoder.training
    loaded = PrefixModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    assert loaded.prefix_config == model.prefix_config
    tensors = torch.load(tmp_path / "prefix_model_state.pdparams", weights_only=True)
    if projection:
        assert tensors["1.weight"].shape == (32, 20)  # [in, out], as in Paddle
    assert json.loads((tmp_path / "prefix_config.json").read_text())["num_prefix_tokens"] == N


def test_precomputed_caches_serve_the_plain_model(tmp_path: Path) -> None:
    model = tuned()
    model.save_pretrained(tmp_path)
    assert np.load(tmp_path / "pre_caches.npy").shape == (2, 2, 2, N, 16)
    base = tiny_model("llama").eval()
    cache = load_pre_caches(tmp_path, base, batch_size=2)
    assert torch.equal(base(input_ids=IDS, past_key_values=cache).logits, model(input_ids=IDS).logits)


def test_precomputed_caches_that_do_not_fit(tmp_path: Path) -> None:
    base = tiny_model("llama")
    with pytest.raises(DataError, match=r"pre_caches.npy cannot be read"):
        load_pre_caches(tmp_path, base)
    np.save(tmp_path / "pre_caches.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"pre_caches.npy cannot be read"):
        load_pre_caches(tmp_path, base)
    np.save(tmp_path / "pre_caches.npy", np.zeros((5, 2, 2, N, 16)))
    with pytest.raises(DataError, match=r"has the shape \(5, 2, 2, 3, 16\)"):
        load_pre_caches(tmp_path, base)


def test_missing_weights_other_processes_and_wrong_names(tmp_path: Path, said: list[str]) -> None:
    model = tuned()
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.iterdir())
    model.save_pretrained(tmp_path)
    (tmp_path / "prefix_model_state.pdparams").unlink()
    PrefixModel.from_pretrained(tiny_model("llama"), tmp_path)
    assert "the weights start new" in said[-1]
    with pytest.raises(DataError, match=r"1 not in the model: 7.weight"):
        model.set_state_dict({"7.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"has no prefix_config.json"):
        PrefixModel.from_pretrained(tiny_model("llama"), tmp_path / "nowhere")


@pytest.mark.parametrize("projection", [False, True])
def test_files_of_several_tensor_parallel_ranks(tmp_path: Path, projection: bool) -> None:
    """Paddle splits the table along the tokens, the first projection along its outputs, the second along its inputs.

    Each rank takes its share of what the encoder gives and reads it as the keys and values of its own heads.
    """
    model = tuned(num_prefix_tokens=4, prefix_projection=projection, prefix_projection_hidden_size=20)
    model.save_pretrained(tmp_path)
    whole = torch.load(tmp_path / "prefix_model_state.pdparams", weights_only=True)
    axes = {"0.weight": 0, "1.weight": 1, "1.bias": 0, "3.weight": 0}
    for rank in range(2):
        part = {key: t.chunk(2, axes[key])[rank].clone() if key in axes else t for key, t in whole.items()}
        torch.save(part, tmp_path / f"prefix_model_state.tp{rank:02d}.pdparams")
    split = copy.deepcopy(model.prefix_config)
    split.tensor_parallel_degree = 2
    split.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="split over 2 devices"):
        PrefixModel.from_pretrained(tiny_model("llama"), tmp_path)
    loaded = PrefixModel.from_pretrained(tiny_model("llama"), tmp_path, merge_tensor_parallel=True).eval()
    flat = model.prefix_encoder(model.prefix_tokens)
    ranks = [share.unflatten(-1, (4, 1, 16)) for share in flat.chunk(2, -1)]  # tokens, keys and values, one head, 16
    expected = torch.cat(ranks, 2)
    for layer, (key, value) in enumerate(loaded.past_key_values(1)):
        torch.testing.assert_close(key[0], expected[:, layer].transpose(0, 1))
        torch.testing.assert_close(value[0], expected[:, 2 + layer].transpose(0, 1))

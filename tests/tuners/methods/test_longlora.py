"""LongLoRA: attention in shifted groups against a dense masked one, and a model that is itself but while training."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners import LongLoRAConfig, Swift, SwiftModel
from swift.tuners.methods.longlora import group_spans, shifted_groups
from tests.tiny import tiny_encoder, tiny_model
from tests.tuners.cases import stir

IDS = torch.arange(3, 35).reshape(2, 16)


def base(kind: str = "llama", **options):
    return tiny_model(kind, vocab_size=64, hidden=32, **options).eval()


def prepared(kind: str = "llama", *, attn: str = "sdpa", **options) -> SwiftModel:
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    config = LongLoRAConfig(**{"r": 2, "target_modules": targets, **options})
    model = Swift.prepare_model(base(kind, attn_implementation=attn), config)
    assert isinstance(model, SwiftModel)
    return model


def logits(model, ids=IDS, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def allowed_by_hand(heads: int, length: int, ratio: float) -> torch.Tensor:
    """Who sees whom, (H, T, T), from the words of the paper: groups, shifted by half a group for half of the heads."""
    size = -(-length * ratio // 1)
    allowed = torch.zeros(heads, length, length, dtype=torch.bool)
    for head in range(heads):
        shift = 0 if head < heads // 2 else size // 2
        for query in range(length):
            for key in range(query + 1):
                allowed[head, query, key] = (query - shift) // size == (key - shift) // size
    return allowed


def dense(query, key, value, allowed, scale=None) -> torch.Tensor:
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], 1) for tensor in (key, value))
    scores = query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    return torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1) @ value


def qkv(heads: int, shared: int, length: int):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, length, 5), (2, shared, length, 5), (2, shared, length, 5))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (4, 2), (4, 1), (3, 1)])
@pytest.mark.parametrize(("length", "ratio"), [(16, 0.25), (16, 1.0), (17, 0.25), (7, 0.5), (12, 1 / 3), (5, 0.2)])
def test_groups_are_a_dense_attention_with_a_mask(heads, shared, length, ratio):
    tensors = qkv(heads, shared, length)
    grouped = shifted_groups(*tensors, ratio)
    expected = dense(*tensors, allowed_by_hand(heads, length, ratio))
    assert torch.allclose(grouped, expected, rtol=0, atol=1e-12)
    pairs = zip(
        torch.autograd.grad(grouped.sin().sum(), tensors),
        torch.autograd.grad(expected.sin().sum(), tensors),
        strict=True,
    )
    assert all(torch.allclose(mine, other, rtol=0, atol=1e-12) for mine, other in pairs)


@pytest.mark.parametrize("form", ["rows", "bool", "float", "heads"])
def test_padding_and_other_masks_hold_inside_the_groups(form):
    tensors, length = qkv(4, 2, 16), 16
    rows = torch.ones(2, length, dtype=torch.bool)
    rows[0, :6], rows[1, 13:] = False, False
    causal = torch.ones(length, length, dtype=torch.bool).tril() & rows[:, None, None, :]
    mask = {
        "rows": rows.long(),
        "bool": causal,
        "float": torch.zeros(2, 1, length, length).masked_fill(~causal, torch.finfo(torch.float32).min),
        "heads": causal.expand(2, 4, length, length),
    }[form]
    allowed = allowed_by_hand(4, length, 0.25) & rows[:, None, None, :]
    grouped = shifted_groups(*tensors, 0.25, mask, scaling=0.3)
    expected = dense(*tensors, allowed | torch.eye(length, dtype=torch.bool), 0.3)
    assert torch.isfinite(grouped).all()
    for row in range(2):
        assert torch.allclose(grouped[row][:, rows[row]], expected[row][:, rows[row]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_a_window_holds_inside_the_groups(padded):
    tensors, index = qkv(4, 4, 16), torch.arange(16)
    allowed = allowed_by_hand(4, 16, 0.5) & (index[:, None] - index < 3)
    mask = torch.ones(2, 16, dtype=torch.long) if padded else None
    assert torch.allclose(shifted_groups(*tensors, 0.5, mask, window=3), dense(*tensors, allowed), rtol=0, atol=1e-12)


def test_the_spans_cover_every_position_once():
    for length in range(1, 40):
        for ratio in (0.01, 0.25, 0.3, 0.5, 1.0):
            for spans in group_spans(length, ratio):
                assert [i for span in spans for i in range(length)[span]] == list(range(length))
    assert group_spans(16, 0.25)[1] == [slice(0, 2), slice(2, 6), slice(6, 10), slice(10, 14), slice(14, 16)]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_only_training_has_groups(kind, attn):
    plain = base(kind, attn_implementation=attn)
    model = prepared(kind, attn=attn)
    assert model.config._attn_implementation == attn
    assert torch.equal(logits(model.eval()), logits(plain))
    model.train()
    if kind != "gpt2":  # which has dropout
        assert not torch.allclose(logits(model), logits(plain), atol=1e-3)
        model.set_active_adapters([])
        assert torch.equal(logits(model), logits(plain.train()))
        model.set_active_adapters("default")
    stir(model)
    tuned = logits(model.eval())
    expected = model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=False, pad_token_id=0)
    assert torch.equal(
        model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0), expected
    )
    model.set_active_adapters([])
    assert torch.equal(logits(model), logits(plain.eval()))
    model.set_active_adapters("default")
    assert torch.equal(logits(model), tuned)
    assert torch.equal(logits(copy.deepcopy(model)), tuned)


def test_a_training_step_is_that_of_the_dense_mask():
    """The model's own eager attention with the mask by hand, for every head, gives the same gradients."""
    model = prepared("llama", group_size_ratio=0.25).double()
    stir(model)
    twin = copy.deepcopy(model).eval()  # so that its attention is dense
    for layer in twin.base_model.model.layers:
        layer.self_attn.config.plain._attn_implementation = "eager"
    allowed = allowed_by_hand(4, 16, 0.25)
    mask = torch.zeros(2, 4, 16, 16, dtype=torch.float64).masked_fill(~allowed, torch.finfo(torch.float64).min)
    results = []
    for one, inputs in ((model.train(), {}), (twin, {"attention_mask": mask})):
        loss = one(input_ids=IDS, **inputs).logits.square().mean()
        own = [parameter for parameter in one.parameters() if parameter.requires_grad]
        results.append((loss, torch.autograd.grad(loss, own)))
    (first, ours), (second, theirs) = results
    assert torch.allclose(first, second, rtol=1e-10)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-9) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_where_the_groups_are_whole(side):
    """With one group, a row in a padded batch is what it is alone."""
    model = prepared("qwen2", group_size_ratio=1.0).train()
    mask = torch.ones_like(IDS)
    mask[1, slice(0, 5) if side == "left" else slice(11, 16)] = 0
    inside = mask[1].bool()
    alone = logits(model, IDS[1:, inside])
    assert not torch.isnan(logits(model, attention_mask=mask)).any()
    model.eval()
    assert torch.allclose(logits(model, attention_mask=mask)[1, inside], logits(model, IDS[1:, inside]), atol=1e-5)
    assert alone.shape[1] == 11


def test_embeddings_and_norms_are_trained_saved_and_plain_peft_reads_them(tmp_path):
    model = prepared("qwen2")
    assert model.adapters["default"].modules_to_save == [
        "embed_tokens",
        "input_layernorm",
        "norm",
        "post_attention_layernorm",
    ]
    stir(model)
    expected = logits(model.eval())
    model.save_pretrained(tmp_path / "ours")
    loaded = Swift.from_pretrained(base("qwen2"), tmp_path / "ours", is_trainable=True)
    assert type(loaded.adapters["default"]) is LongLoRAConfig
    assert loaded.adapters["default"].group_size_ratio == 0.25
    assert torch.equal(logits(loaded.eval()), expected)
    loaded.train()
    assert torch.equal(logits(loaded), logits(model.train()))
    Swift.save_to_peft_format(tmp_path / "ours", tmp_path / "peft")
    plain = peft.PeftModel.from_pretrained(base("qwen2"), str(tmp_path / "peft")).eval()
    assert torch.equal(logits(plain), expected)
    Swift.merge_and_unload(model.eval())
    assert torch.allclose(logits(model.model), expected, atol=1e-5)


def test_what_else_trains_can_be_said():
    model = prepared("qwen2", embedder_and_normalizer="norm", modules_to_save=["lm_head"])
    assert model.adapters["default"].modules_to_save == [
        "input_layernorm",
        "lm_head",
        "norm",
        "post_attention_layernorm",
    ]
    assert prepared("qwen2", embedder_and_normalizer=()).adapters["default"].modules_to_save is None


def test_a_call_from_a_cache_is_not_grouped():
    model = prepared("llama").train()
    cache = model(input_ids=IDS[:, :15], use_cache=True).past_key_values
    assert torch.isfinite(logits(model, IDS[:, 15:], past_key_values=cache)).all()


def test_what_cannot_be_grouped_is_refused():
    for ratio in (0, 1.5):
        with pytest.raises(ConfigError, match="group_size_ratio"):
            LongLoRAConfig(group_size_ratio=ratio)
    with pytest.raises(ConfigError, match="cannot change the attention of Bert"):
        Swift.prepare_model(tiny_encoder("bert", vocab_size=64, hidden=32), LongLoRAConfig(target_modules=["query"]))
    with pytest.raises(ConfigError, match="cannot change the attention of Sequential"):
        Swift.prepare_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), LongLoRAConfig(target_modules=["0"]))
    model = Swift.prepare_model(
        base("gemma2", head_dim=8, attn_implementation="eager"), LongLoRAConfig(target_modules=["q_proj"])
    )
    assert torch.isfinite(logits(model.eval())).all()
    with pytest.raises(ConfigError, match="softcap"):
        logits(model.train())


def test_options_become_its_config():
    args = SftArguments(lora_rank=3, lora_target_modules=["ALL"], longlora_group_size_ratio=0.5, lora_lr_ratio=None)
    config = LongLoRAConfig.from_options(args, base())
    assert (config.r, config.group_size_ratio, config.lorap_lr_ratio) == (3, 0.5, None)
    assert isinstance(Swift.prepare_model(base(), config), SwiftModel)

"""PiSSA and OLoRA: the base stays as it is, and what is saved is plain LoRA for it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from swift.arguments.infer import InferArguments
from swift.commands.merge import merge_lora
from swift.commands.prepare import prepare_model_template
from swift.commands.sft import sft_main
from swift.errors import ConfigError
from swift.tuners import LoraConfig, Swift, SwiftModel
from swift.tuners.lora import folded, unfolded
from swift.tuners.relative import start_of
from tests.trainers.rows import Rows, losses, trainer_of, weights
from tests.tuners.cases import HOSTS, run, stir, train
from tests.tuners.test_facade import lora

LM = HOSTS["lm"]
STARTS = ["pissa", "pissa_niter_4", "olora"]
OPTIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
    "whole": {"modules_to_save": ["lm_head"]},
    "bf16": {"lora_dtype": "bf16"},
}


def prepared(start: str, single: bool, host=LM, **options):
    config = lora(**{"init_lora_weights": start, "target_modules": host.linears, **options})
    model = Swift.prepare_model(host.make(), config if single else {"default": config})
    assert isinstance(model, peft.PeftModel if single else SwiftModel)
    return model


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("host", ["lm", "gpt2"])
def test_the_base_keeps_its_weights_and_its_answers(start, host):
    host = HOSTS[host]
    base = host.make()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    model = prepared(start, False, host)
    assert torch.allclose(run(model, host), run(base, host), atol=1e-6)
    inside = model.base_model.state_dict()
    assert all(torch.equal(inside[key.replace(".base_layer.", ".")], before[key]) for key in before if key in inside)
    assert any(key.endswith(".start") for key in inside)
    model.set_active_adapters([])
    assert torch.equal(run(model, host), run(base, host))


@pytest.mark.parametrize("start", STARTS)
def test_it_starts_at_a_part_of_the_weight(start):
    torch.manual_seed(0)
    weight_OI = torch.randn(12, 7, dtype=torch.float64)
    first_RI, first_OR = start_of(weight_OI, 3, 0.5, start)
    assert (first_RI.shape, first_OR.shape) == ((3, 7), (12, 3))
    rest = weight_OI - 0.5 * first_OR @ first_RI
    sizes = torch.linalg.svdvals(weight_OI)
    if start == "pissa":  # what is left has the smaller singular values, and both factors share the larger ones
        assert torch.allclose(torch.linalg.svdvals(rest)[:4], sizes[3:], atol=1e-12)
        assert torch.allclose(first_RI @ first_RI.T, torch.diag(sizes[:3] / 0.5), atol=1e-12)
        assert torch.allclose(first_OR.T @ first_OR, torch.diag(sizes[:3] / 0.5), atol=1e-12)
    elif start == "olora":  # B is orthonormal and A triangular: the first columns of W are theirs
        assert torch.allclose(first_OR.T @ first_OR, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(first_OR @ first_RI[:, :3], weight_OI[:, :3], atol=1e-12)
    else:
        assert torch.linalg.matrix_norm(rest) < 1.05 * sizes[3:].norm()


@pytest.mark.parametrize("single", [True, False], ids=["peft", "ours"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_saved_is_plain_lora_for_the_original_base(start, single, options, tmp_path):
    model = prepared(start, single, **OPTIONS[options])
    train(model, LM)
    expected = run(model, LM)
    model.save_pretrained(tmp_path / "saved")
    for frozen in (True, False):
        again = Swift.from_pretrained(LM.make(), tmp_path / "saved", inference_mode=frozen)
        assert torch.equal(run(again, LM), expected)
        again.save_pretrained(tmp_path / f"again{frozen}")
        assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path / f"again{frozen}"), LM), expected)
    if single:
        theirs = peft.PeftModel.from_pretrained(LM.make(), tmp_path / "saved")
        assert torch.allclose(run(theirs, LM), expected, rtol=0, atol=1e-2 if options == "bf16" else 0)
        config = json.loads((tmp_path / "saved/adapter_config.json").read_text())
        assert config["r"] == 8
        assert config["init_lora_weights"] is True


@pytest.mark.parametrize("start", STARTS)
def test_converted_for_plain_peft_it_is_equal(start, tmp_path):
    model = prepared(start, False, use_rslora=True)
    stir(model)
    model.save_pretrained(tmp_path)
    Swift.save_to_peft_format(tmp_path, tmp_path)
    assert torch.equal(run(peft.PeftModel.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))


@pytest.mark.parametrize("single", [True, False], ids=["peft", "ours"])
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_it_goes_on_training_as_if_it_had_not_been_saved(start, single, tmp_path):
    model = prepared(start, single)
    train(model, LM)
    model.save_pretrained(tmp_path)
    again = Swift.from_pretrained(LM.make(), tmp_path, is_trainable=True)
    own, other = ([p.detach().clone() for p in one.parameters() if p.requires_grad] for one in (model, again))
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    assert train(model, LM) == train(again, LM)
    assert torch.equal(run(model, LM), run(again, LM))


@pytest.mark.parametrize("single", [True, False], ids=["peft", "ours"])
@pytest.mark.parametrize("start", ["pissa_niter_4", "olora"])
def test_a_run_that_goes_on_is_one_that_never_stopped(start, single, tmp_path):
    said = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "logging_steps": 2, "save_total_limit": None}
    torch.manual_seed(0)
    straight = trainer_of(prepared(start, single), tmp_path / "straight", Rows(16), **said)
    straight.train()
    torch.manual_seed(1)  # a randomised decomposition starts elsewhere
    resumed = trainer_of(prepared(start, single), tmp_path / "resumed", Rows(16), **said)
    resumed.train(resume_from_checkpoint=tmp_path / "straight/checkpoint-3")
    assert losses(resumed) == losses(straight)
    same, other = weights(straight.model), weights(resumed.model)
    assert all(torch.equal(same[name], other[name]) for name in same)
    loaded = Swift.from_pretrained(LM.make(), tmp_path / "resumed/checkpoint-6")
    assert torch.equal(run(loaded, LM), run(resumed.model, LM))


@pytest.mark.parametrize("backend", [pytest.param("peft", marks=pytest.mark.slow), "swift"])
def test_from_the_command_line(backend, tiny_dir, tmp_path):
    rows = [json.dumps({"query": f"a{i}", "response": f"b {i}"}) for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "rows.jsonl"), "--max_steps", "4"]
    words += ["--init_lora_weights", "pissa_niter_4", "--tuner_backend", backend, "--learning_rate", "1e-2"]
    words += ["--evaluation_strategy", "no", "--save_steps", "2", "--save_total_limit", "2", "--batch_size", "2"]
    words += ["--add_output_dir_suffix", "false", "--gradient_accumulation_steps", "1"]
    last = Path(sft_main([*words, "--output_dir", str(tmp_path / "run")])["last_model_checkpoint"])
    again = [*words, "--resume_from_checkpoint", str(last.with_name("checkpoint-2"))]
    resumed = Path(sft_main([*again, "--output_dir", str(tmp_path / "again")])["last_model_checkpoint"])
    first, second = (load_file(next(folder.rglob("adapter_model.safetensors"))) for folder in (last, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first | second)
    inputs = {"input_ids": torch.arange(3, 13)[None]}
    answering = prepare_model_template(InferArguments(ckpt_dir=str(last))).model
    merged = AutoModelForCausalLM.from_pretrained(merge_lora(InferArguments(ckpt_dir=str(last))))
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    with torch.no_grad():
        wanted = answering(**inputs).logits
        assert not torch.allclose(wanted, base(**inputs).logits, atol=1e-2)
        assert torch.allclose(merged(**inputs).logits, wanted, atol=1e-5)
        if backend == "peft":
            assert torch.equal(peft.PeftModel.from_pretrained(base, last)(**inputs).logits, wanted)


def test_a_second_one_beside_the_first(tmp_path):
    for name, start in (("a", "pissa"), ("b", "olora")):
        model = prepared(start, True)
        stir(model, len(start))
        model.save_pretrained(tmp_path / name)
    tuned = Swift.from_pretrained(LM.make(), tmp_path / "a", is_trainable=True)
    tuned = Swift.from_pretrained(tuned, tmp_path / "b", {"default": "second"}, is_trainable=True)
    for name, folder in (("default", "a"), ("second", "b")):
        tuned.set_adapter(name)
        assert torch.equal(run(tuned, LM), run(Swift.from_pretrained(LM.make(), tmp_path / folder), LM))
    tuned.save_pretrained(tmp_path / "both")
    assert set(Swift.from_pretrained(LM.make(), tmp_path / "both").peft_config) == {"default", "second"}


def test_combining_waits_until_it_is_plain(tmp_path):
    model = Swift.prepare_model(LM.make(), {"a": lora(init_lora_weights="pissa"), "b": lora()})
    stir(model)
    model.set_active_adapters(["a", "b"])
    both = run(model, LM)
    with pytest.raises(ConfigError, match="load it again"):
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum", combination_type="cat")
    model.save_pretrained(tmp_path)
    plain = Swift.from_pretrained(LM.make(), tmp_path)
    plain.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum", combination_type="cat")
    assert torch.allclose(run(plain, LM), both, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target_modules": ["embed_tokens", "q_proj"]}, "cannot start in Embedding"),
        ({"r": 33}, "of rank 33 cannot start in Linear"),
        ({"init_lora_weights": "pissa_often"}, "pissa_niter_4"),
    ],
)
def test_what_cannot_start_so_is_refused(options, match):
    base = LM.make()
    with pytest.raises(ConfigError, match=match):
        Swift.prepare_model(base, {"a": lora(**{"init_lora_weights": "pissa", **options})})
    assert set(base.state_dict()) == set(LM.make().state_dict()), "a model that was refused is as it was"


def test_a_model_of_peft_s_is_taken_over(tmp_path):
    model = Swift.prepare_model(prepared("pissa", True), {"other": lora()})
    stir(model)
    before = run(model, LM)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), before)
    Swift.merge_and_unload(model)
    assert torch.allclose(run(model.model, LM), before, atol=1e-5)


def test_a_folded_config_has_the_scale_of_its_adapter():
    for rslora in (False, True):
        config = lora(r=6, lora_alpha=10, use_rslora=rslora, init_lora_weights="pissa", alpha_pattern={"q": 7})
        plain = folded(config)
        power = 0.5 if rslora else 1
        assert plain.lora_alpha / plain.r**power == pytest.approx(config.lora_alpha / config.r**power, rel=1e-15)
        assert folded(plain) is plain
        back = unfolded(plain)
        assert (back.r, back.lora_alpha, back.alpha_pattern, back.init_lora_weights) == (6, 10, {"q": 7}, "pissa")
        assert unfolded(back) is back
    assert math.isclose(folded(lora(init_lora_weights="olora", lora_alpha=5)).lora_alpha, 10)
    assert isinstance(folded(LoraConfig()), LoraConfig)

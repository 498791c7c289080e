"""ReFT: the six interventions by their equations, where they act, and that text is generated alike with any cache."""

from __future__ import annotations

import pytest
import torch
from peft import PrefixTuningConfig

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, UnknownNameError
from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from swift.tuners import ReftConfig, Swift
from swift.tuners.methods.reft import (
    KINDS,
    Intervention,
    Positions,
    Settings,
    orthonormal_rows,
    prompt_ends,
    prompt_positions,
)
from tests.tiny import tiny_model
from tests.tuners.cases import stir

IDS = torch.arange(3, 27).reshape(2, 12)


def base(kind: str = "qwen2"):
    return tiny_model(kind, vocab_size=64, hidden=32, layers=3).eval()


def prepared(kind: str = "qwen2", **options):
    return Swift.prepare_model(base(kind), ReftConfig(**options)).eval()


def tuned(kind: str = "qwen2", **options):
    model = prepared(kind, **options)
    stir(model)
    return model


def logits(model, ids=IDS, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def by_hand(kind: str, h, basis, weight, bias, act=lambda x: x):
    """The paper's equations, for one hidden state as a column."""
    free = kind in ("NoreftIntervention", "NodireftIntervention")
    rows = basis if free else torch.linalg.qr(basis.T)[0].T
    if not free:  # each row keeps the side of its own that it began on
        rows = rows * torch.sign(torch.einsum("rd,rd->r", rows, basis))[:, None]
    return {
        "LoreftIntervention": lambda: h + rows.T @ (act(weight @ h + bias) - rows @ h),
        "NoreftIntervention": lambda: h + rows.T @ (act(weight @ h + bias) - rows @ h),
        "ConsreftIntervention": lambda: h + rows.T @ (bias - rows @ h),
        "LobireftIntervention": lambda: h + rows.T @ bias,
        "DireftIntervention": lambda: h + rows.T @ act(weight @ h + bias),
        "NodireftIntervention": lambda: h + rows.T @ act(weight @ h + bias),
    }[kind]()


@pytest.mark.parametrize("act_fn", [None, "tanh"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_equation(kind, act_fn):
    torch.manual_seed(0)
    branch = Intervention(KINDS[kind], 7, 3, Settings(act_fn=act_fn), positions=None).double().eval()
    for parameter in branch.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(2, 4, 7, dtype=torch.float64)
    edited = branch(hidden)
    act = torch.tanh if act_fn else lambda x: x
    for row in range(2):
        for place in range(4):
            expected = by_hand(kind, hidden[row, place], branch.basis, branch.source_weight, branch.source_bias, act)
            assert torch.allclose(edited[row, place], expected, rtol=0, atol=1e-12)


def test_rows_are_orthonormal_and_a_start_stays_what_it_is():
    free = torch.randn(5, 32, dtype=torch.float64)
    rows = orthonormal_rows(free)
    assert torch.allclose(rows @ rows.T, torch.eye(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(orthonormal_rows(rows), rows, atol=1e-12)
    assert (torch.einsum("rd,rd->r", rows, free) > 0).all()
    assert orthonormal_rows(free.bfloat16()).dtype == torch.bfloat16
    model = tuned()
    for module in model.modules():
        if isinstance(module, Intervention):
            assert torch.allclose(module.rows() @ module.rows().T, torch.eye(4), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_base_or_the_papers(kind):
    same = torch.equal(logits(prepared(intervention_type=kind)), logits(base()))
    assert same is (kind != "ConsreftIntervention")
    assert torch.equal(logits(prepared(intervention_type=kind, args={"add_bias": True})), logits(base())) is same
    paper = torch.equal(logits(prepared(intervention_type=kind, args={"identity": False})), logits(base()))
    assert paper is (kind == "LobireftIntervention")


def places(mask, ends=None, first_n=2, last_n=1) -> list[list[int]]:
    ends = None if ends is None else torch.tensor(ends)
    found = prompt_positions(first_n, last_n, torch.tensor(mask), ends)
    return [row.nonzero().flatten().tolist() for row in found]


def test_positions_are_counted_from_the_ends_of_each_prompt():
    whole, left, right = [1] * 6, [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]
    assert places([whole, left, right]) == [[0, 1, 5], [2, 3, 5], [0, 1, 3]]
    assert places([whole, left, right], [4, 5, 3]) == [[0, 1, 3], [2, 3, 4], [0, 1, 2]]
    assert places([whole, left], [1, 3]) == [[0], [2]]
    assert places([whole, left], first_n=0) == [[5], [5]]
    assert places([whole], last_n=0) == [[0, 1]]
    assert places([whole, left], [4, 4], first_n=None) == [[0, 1, 2, 3], [2, 3]]
    assert places([[0] * 6]) == [[]]


def test_the_prompt_ends_where_supervision_begins():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, -100], [5, 6, 7, 8], [-100, -100, 7, -100]])
    mask = torch.tensor([[1, 1, 1, 1]] * 3 + [[0, 0, 1, 1]])
    assert prompt_ends(labels, mask).tolist() == [2, 4, 4, 4]


def test_only_those_positions_are_edited():
    model, plain = tuned(args={"first_n": 1, "last_n": 2}, layers=[0]), base()
    labels = IDS.clone()
    labels[:, :6] = -100
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    seen = []
    for one in (model.base_model, plain):
        hook = one.model.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        one(input_ids=IDS, labels=labels, attention_mask=mask)
        hook.remove()
    moved = [(row != other).any(-1).nonzero().flatten().tolist() for row, other in zip(*seen, strict=True)]
    assert moved == [[0, 4, 5], [3, 4, 5]]


def test_our_trainer_says_where_prompts_end(tmp_path):
    """It keeps the labels for itself, and the edits are nevertheless where `generate` makes them."""
    model = tuned(args={"first_n": 0, "last_n": 1})
    labels = IDS.clone()
    labels[0, :6], labels[1, :9] = -100, -100
    arguments = Seq2SeqTrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = Seq2SeqTrainer(model=model, args=arguments, train_dataset=[{"input_ids": [1], "labels": [1]}])
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": labels}
    ours = trainer.compute_loss(model, inputs)
    places = model.base_model.reft_default.heard.get()["found"]
    assert [row.nonzero().flatten().tolist() for row in places] == [[5], [8]]
    assert torch.allclose(ours, model(**inputs).loss, atol=1e-6)
    logits(model)
    assert model.base_model.reft_default.heard.get()["labels"] is None


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
@pytest.mark.parametrize("args", [{"first_n": 2, "last_n": 1}, {"first_n": None}])
def test_text_is_the_same_with_and_without_a_cache(kind, args):
    model = tuned(kind, args=args)
    mask = torch.ones_like(IDS)
    mask[1, :4] = 0
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    expected = model.generate(input_ids=IDS, use_cache=False, **options)
    assert torch.equal(model.generate(IDS, **options), expected)
    beams = {**options, "num_beams": 3}
    assert torch.equal(model.generate(IDS, **beams), model.generate(IDS, use_cache=False, **beams))
    chunked = model.generate(IDS, **options, prefill_chunk_size=5) if kind == "qwen2" else expected
    assert torch.equal(chunked, expected)
    alone = model.generate(IDS[1:, 4:], **{**options, "attention_mask": mask[1:, 4:]})
    assert torch.equal(alone[0], expected[1, 4:])
    model.set_active_adapters([])
    assert torch.equal(model.generate(IDS, **options), base(kind).generate(IDS, **options))


def test_a_call_after_generation_that_failed_has_a_prompt_of_its_own():
    model = tuned(args={"first_n": 0, "last_n": 1})
    before = logits(model)
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate(IDS[:, :4], max_new_tokens=-1)
    assert torch.equal(logits(model), before)


def test_a_call_that_goes_on_from_a_cache_edits_nothing():
    model, plain = tuned(), base()
    cache = plain(input_ids=IDS, use_cache=True).past_key_values
    step = torch.tensor([[5], [6]])
    expected = plain(input_ids=torch.cat([IDS, step], 1)).logits[:, -1]
    assert torch.allclose(logits(model, step, past_key_values=cache)[:, -1], expected, atol=1e-5)


def test_a_prefix_is_no_part_of_the_prompt(monkeypatch):
    model = tuned(args={"first_n": 2, "last_n": 1})
    prefix = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = Swift.prepare_model(model, {"prefix": prefix}).eval()
    found, find = [], Positions.find
    monkeypatch.setattr(Positions, "find", lambda *args: found.append(find(*args)) or found[-1])
    mask = torch.ones_like(IDS)
    mask[1, :4] = 0
    labels = IDS.clone()
    labels[:, :6] = -100
    where = [[0, 1, 11], [4, 5, 11]]
    for inputs, expected in (({}, where), ({"labels": labels}, [[0, 1, 5], [4, 5]])):
        model(input_ids=IDS, attention_mask=mask, **inputs)
        assert [row.nonzero().flatten().tolist() for row in found.pop()] == expected
    found.clear()
    model.generate(IDS, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, pad_token_id=0)
    assert [row.nonzero().flatten().tolist() for row in found[0]] == where
    assert found[-1] is None


def test_layers_and_their_list_are_found_or_named():
    for options, expected in (
        ({}, [0, 1, 2]),
        ({"layers": [-1, 0]}, [0, 2]),
        ({"layer_key": "layers"}, [0, 1, 2]),
        ({"target_modules": r"model\.layers\.1"}, [1]),
    ):
        model = prepared(**options)
        assert sorted({int(key.split(".")[2]) for key in model.owned("default")}) == expected
    for options, match in (
        ({"layers": [3]}, "no layer 3"),
        ({"r": 33}, "r=33"),
        ({"r": 0}, "r=0"),
        ({"args": {"first_n": -1}}, "first_n=-1"),
        ({"args": {"first_n": 0, "last_n": 0}}, "nothing would be edited"),
        ({"args": {"dropout": 1.0}}, "dropout"),
    ):
        with pytest.raises(ConfigError, match=match):
            prepared(**options)
    for options in (
        {"intervention_type": "Loreft"},
        {"args": {"frist_n": 1}},
        {"args": {"act_fn": "gelo"}},
        {"layer_key": "laiers"},
    ):
        with pytest.raises(UnknownNameError):
            prepared(**options)


def test_hidden_states_and_dropout():
    model = tuned(args={"dropout": 0.5})
    assert len(model(input_ids=IDS, output_hidden_states=True).hidden_states) == 4
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_options_become_its_config():
    args = SftArguments(
        reft_layer_key="model.layers",
        reft_layers=[1],
        reft_rank=2,
        reft_intervention_type="DireftIntervention",
        reft_args={"first_n": 1},
    )
    config = ReftConfig.from_options(args, base())
    assert (config.layer_key, config.layers, config.r, config.args) == ("model.layers", [1], 2, {"first_n": 1})
    assert config.intervention_type == "DireftIntervention"

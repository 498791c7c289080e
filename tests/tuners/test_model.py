"""SwiftModel: what runs where, what it looks like from outside, and what it refuses."""

from __future__ import annotations

import copy
import inspect
import threading

import pytest
import torch
from peft import IA3Config
from torch import nn

from swift.errors import ConfigError, DataError, UnknownNameError, UsageError
from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.test_facade import adapter, lora

LM = HOSTS["lm"]


def two() -> SwiftModel:
    model = Swift.prepare_model(LM.make(), {"a": lora(), "b": adapter()})
    assert isinstance(model, SwiftModel)
    stir(model)
    return model


def test_it_looks_like_its_base():
    model = two()
    assert model.config is model.base_model.config is model.model.config
    assert inspect.signature(model.forward) == inspect.signature(model.base_model.forward)
    assert "labels" in inspect.signature(copy.deepcopy(model).forward).parameters
    assert model.get_base_model() is model.base_model
    with pytest.raises(AttributeError, match="nothing_such"):
        model.nothing_such  # noqa: B018
    assert torch.equal(SwiftModel.forward(model.eval(), **LM.inputs).logits, run(model, LM))
    assert "labels" in inspect.signature(SwiftModel.forward).parameters
    with pytest.raises(AttributeError, match="base_model"):
        SwiftModel.__new__(SwiftModel).anything  # noqa: B018
    ids = model.eval().generate(torch.arange(4)[None], max_new_tokens=3, do_sample=False)
    assert ids.shape == (1, 7)


def test_hf_trainer_trains_it(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = Swift.prepare_model(LM.make(), {"a": lora(), "b": adapter()})
    rows = [{"input_ids": torch.arange(7), "labels": torch.arange(7), "text": "kept away from the model"}] * 8
    arguments = TrainingArguments(
        tmp_path,
        max_steps=20,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < losses[0] - 0.2


def test_it_compiles():
    torch._dynamo.reset()
    model = two()
    expected = run(model, LM)
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(run(compiled, LM), expected, atol=1e-6)
    model.set_active_adapters([])
    assert torch.allclose(run(compiled, LM), run(LM.make(), LM), atol=1e-6)


def test_a_name_inside_another_and_names_of_modules():
    names = ["lora", "lora1", "lora10", "mlp", "q_proj", "weight", "lora_A"]
    model = Swift.prepare_model(LM.make(), {name: lora(r=2) for name in names})
    owned = [set(model.owned(name)) for name in names]
    assert all(len(own) == 8 for own in owned)
    assert len(set().union(*owned)) == 8 * len(names)
    model = Swift.prepare_model(LM.make(), {name: adapter() for name in names})
    assert len(set().union(*(model.owned(name) for name in names))) == 8 * len(names)


def test_threads_have_their_own_adapters(monkeypatch):
    expected = {}
    model = two()
    for names in ((), ("a",), ("b",), ("a", "b")):
        model.set_active_adapters(names)
        expected[names] = run(model, LM)
    monkeypatch.setenv("USE_UNIQUE_THREAD", "0")
    shared = Swift.prepare_model(LM.make(), {"a": lora(), "b": adapter()})
    shared.load_state_dict(model.state_dict())
    shared.eval()
    assert torch.equal(run(shared, LM), expected["a", "b"])  # this thread added them
    wrong, gate = [], threading.Barrier(len(expected))

    def serve(names):
        if names:
            shared.set_active_adapters(names)
        for _ in range(3):
            gate.wait()
            if not torch.equal(run(shared, LM), expected[names]):
                wrong.append(names)

    threads = [threading.Thread(target=serve, args=(names,)) for names in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert copy.deepcopy(shared).active_adapters == {"a", "b"}
    for merge in (Swift.merge, Swift.merge_and_unload):
        with pytest.raises(ConfigError, match="threads"):
            merge(shared)


def test_switching_costs_the_same_however_many_there_are():
    model = Swift.prepare_model(LM.make(), {f"n{i}": lora(r=1) for i in range(5)})
    layer = model.base_model.model.layers[0].self_attn.q_proj
    before = layer.active_adapters
    model.set_active_adapters("n3")
    assert layer.active_adapters is before
    assert list(before) == ["n3"]


def test_a_merged_model_is_not_switched():
    model = two()
    Swift.merge(model)
    for change in (lambda: model.set_active_adapters([]), lambda: model.add_adapter("c", lora())):
        with pytest.raises(ConfigError, match="unmerge"):
            change()
    assert set(model.adapters) == {"a", "b"}
    Swift.unmerge(model)
    model.set_active_adapters([])
    with pytest.raises(ConfigError, match="cannot be merged"):
        Swift.merge_and_unload(model, "b")


def test_only_one_copy_of_a_whole_module_runs(caplog):
    whole = lora(modules_to_save=["lm_head"])
    model = Swift.prepare_model(LM.make(), {"a": whole, "b": whole, "c": adapter()})
    assert model.active_adapters == {"b", "c"}
    stir(model)
    model.base_model.lm_head.modules_to_save["a"].weight.data.mul_(2)
    with pytest.raises(ConfigError, match="their own copy"):
        model.set_active_adapters(["a", "b"])
    outputs = {}
    for name in ("a", "b", "c"):
        model.set_active_adapters(name)
        outputs[name] = run(model, LM)
    assert not torch.allclose(outputs["a"], outputs["b"])
    model.set_active_adapters(["a", "c"])
    Swift.merge_and_unload(model, "a")
    assert torch.isfinite(run(model, LM)).all()
    assert set(model.adapters) == {"b", "c"}


def test_unknown_adapters_are_named():
    model = two()
    for call in (model.set_active_adapters, model.activate_adapter, model.deactivate_adapter, model.owned):
        with pytest.raises(UnknownNameError, match="zzz"):
            call("zzz")
    with pytest.raises(UsageError, match="offload"):
        model.deactivate_adapter("a", offload="moon")


def test_load_state_dict_is_strict_about_what_it_says():
    model = two()
    state = model.state_dict()
    first = next(iter(state))
    with pytest.raises(DataError, match="1 missing"):
        model.load_state_dict({key: value for key, value in state.items() if key != first})
    with pytest.raises(DataError, match="another shape"):
        model.load_state_dict({**state, first: torch.ones(1)}, strict=False)
    with pytest.raises(DataError, match=r"another type: .*torch\.int64, not torch\.float32"):
        model.load_state_dict({**state, first: state[first].long()})
    model.load_state_dict({**state, first: state[first].half()})
    result = model.load_state_dict({"strange": torch.ones(1)}, strict=False)
    assert set(result.missing_keys) == set(state)
    assert set(model.state_dict(prefix="module.", destination={})) == {f"module.{key}" for key in state}
    assert set(model.state_dict(adapter_name="a")) < set(state)


def test_saving_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        two().save_pretrained(tmp_path / "file")


def test_saving_takes_tensors_gathered_elsewhere(tmp_path):
    model = two()
    model.save_pretrained(
        tmp_path, state_dict={key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    )
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path, "a"), LM), run(LM.make(), LM))


def test_the_line_of_trainable_parameters():
    line = two().get_trainable_parameters()
    assert line.startswith("trainable params: 0.00")
    assert "M || all params: 0.0" in line
    assert line.endswith("|| cuda memory: 0.00GiB.")


def test_lora_plus_groups():
    model = Swift.prepare_model(
        LM.make(),
        {"a": lora(target_modules=["q_proj", "embed_tokens"]), "b": adapter(), "c": lora(lorap_lr_ratio=None)},
    )
    groups = model.create_optimizer_param_groups(lr=1e-4, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(found)
    for name, (rate, decay) in found.items():
        plus = 1.6e-3 if ".lora_B.a." in name else 1e-6 if "embedding" in name and name.endswith(".a") else 1e-4
        assert rate == pytest.approx(plus), name
        assert decay == (0.0 if name.endswith("bias") else 0.1), name
    torch.optim.AdamW(groups)
    with pytest.raises(UsageError, match="lr"):
        model.create_optimizer_param_groups(weight_decay=0.1)


def test_weighted_adapters():
    model = Swift.prepare_model(
        LM.make(),
        {
            "a": lora(),
            "b": lora(),
            "c": adapter(),
            "d": IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
        },
    )
    stir(model)
    model.set_active_adapters(["a", "b"])
    both = run(model, LM)
    model.set_active_adapters([], offload="meta")
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum", combination_type="cat")
    assert model.active_adapters == {"sum"}
    assert model.adapters["sum"].r == 8
    assert torch.allclose(run(model, LM), both, atol=1e-5)
    with pytest.raises(ConfigError, match="only LoRA"):
        model.add_weighted_adapter(["a", "c"], [1.0, 1.0], "more")
    with pytest.raises(UsageError, match="already"):
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum")


def test_lora_in_the_precision_that_was_asked_for():
    for config in (lora(lora_dtype="bf16"), {"a": lora(lora_dtype="bf16")}):
        model = Swift.prepare_model(LM.make(), config)
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.bfloat16}
    with pytest.raises(UnknownNameError, match="int8"):
        LoraConfig(lora_dtype="int8")


def test_an_adapter_on_another_method():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(4, 4)

        def chunk(self, hidden):
            return {"out": self.dense(hidden), "rest": 1}

        def forward(self, hidden):
            return self.chunk(hidden)["out"]

    torch.manual_seed(0)
    base = nn.Sequential(Layer(), Layer())
    inputs = torch.ones(2, 4)
    expected = base(inputs)
    config = AdapterConfig(dim=4, target_modules=r"0", method_name="chunk", hidden_pos="out", adapter_length=2)
    model = Swift.prepare_model(base, {"a": config, "b": config})
    assert torch.equal(model(inputs), expected)
    stir(model)
    on = model(inputs)
    assert not torch.allclose(on, expected)
    twin = copy.deepcopy(model)
    twin.set_active_adapters([])
    assert torch.equal(twin(inputs), expected)
    assert torch.equal(model(inputs), on)


def test_a_copy_outlives_the_model_whose_tensors_are_on_disk():
    model = two()
    before = run(model, LM)
    model.set_active_adapters([], offload="meta")
    twin = copy.deepcopy(model)
    del model
    twin.set_active_adapters(["a", "b"])
    assert torch.equal(run(twin, LM), before)


def test_what_another_thread_runs_is_not_sent_away(monkeypatch):
    monkeypatch.setenv("USE_UNIQUE_THREAD", "0")
    model = Swift.prepare_model(LM.make(), {"a": lora(), "b": adapter()})
    before = run(model, LM)
    refused = []

    def other():
        try:
            model.set_active_adapters("a", offload="cpu")
        except ConfigError as error:
            refused.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "another thread runs adapter 'b'" in refused[0]
    assert torch.equal(run(model, LM), before)
    model.set_active_adapters("b", offload="cpu")  # the thread that ran `a` has ended
    model.set_active_adapters(["a", "b"])
    assert torch.equal(run(model, LM), before)

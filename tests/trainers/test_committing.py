"""Checkpoints of a run: what is in them, going on from them bit for bit, and refusing what would not be exact."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swift import checkpoint, storage
from swift.arguments.fields import to_json
from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, DataError, DiskError, InternalError, NotFoundError
from swift.trainers.sameness import differences
from swift.tuners import AdapterConfig, LoraConfig, Swift
from tests.tiny import tiny_model, tiny_tokenizer
from tests.trainers.rows import VOCAB, Rows, lora, losses, trainer_of, weights

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "max_steps": 9, "logging_steps": 2}


def two_tuners() -> Any:
    torch.manual_seed(0)
    tuners = {
        "first": LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj"]),
        "second": AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=4),
    }
    return Swift.prepare_model(tiny_model(vocab_size=VOCAB, hidden=32), tuners)


MODELS = {
    "lora": lambda: lora(dropout=0.2),
    "full": lambda: tiny_model(vocab_size=VOCAB, hidden=32, attention_dropout=0.2),
    "two": two_tuners,
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("rows", "accumulation"), [pytest.param(16, 1, marks=pytest.mark.slow), (21, 2)])
def test_going_on_is_never_having_stopped(tmp_path: Path, kind: str, rows: int, accumulation: int) -> None:
    said = {
        **SAVING,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
        "eval_strategy": "steps",
    }
    said |= {"eval_steps": 3, "save_total_limit": None}
    data = {"train": Rows(rows), "val": Rows(5, seed=8)}
    straight = trainer_of(MODELS[kind](), tmp_path / "straight", **data, **said)
    straight.train()
    for step in (3, 6):
        resumed = trainer_of(MODELS[kind](), tmp_path / "resumed", **data, **said)
        shutil.rmtree(tmp_path / "resumed")
        start = tmp_path / "straight" / f"checkpoint-{step}"
        resumed.train(resume_from_checkpoint=start)
        assert losses(resumed) == losses(straight)
        same, other = weights(straight.model), weights(resumed.model)
        assert all(torch.equal(same[name], other[name]) for name in same)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            files = [tmp_path / run / "checkpoint-9" / name for run in ("straight", "resumed")]
            assert files[0].read_bytes() == files[1].read_bytes(), name
        evals = [[e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (straight, resumed)]
        assert evals[0] == evals[1]


def test_auto_takes_the_newest_whole_one(tmp_path: Path) -> None:
    straight = trainer_of(lora(0.2), tmp_path, **SAVING)
    straight.train(resume_from_checkpoint="auto")
    lines = (tmp_path / "logging.jsonl").read_text().splitlines()
    (tmp_path / "checkpoint-9" / "optimizer.pt").unlink()
    again = trainer_of(lora(0.2), tmp_path, **SAVING)
    again.train(resume_from_checkpoint=True)
    assert losses(again) == losses(straight)
    assert storage.verify(tmp_path / "checkpoint-9") == []
    after = (tmp_path / "logging.jsonl").read_text().splitlines()
    steps = [
        [json.loads(line)["global_step"] for line in part if "loss" in json.loads(line)] for part in (lines, after)
    ]
    assert steps[0] == steps[1] == [2, 3, 4, 6, 8, 9]


def test_what_was_just_written_stays_beside_newer_ones_that_are_damaged(tmp_path: Path) -> None:
    trainer_of(lora(), tmp_path, **SAVING).train()
    for step in (6, 9):
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").unlink()
    said = {**SAVING, "save_steps": 1, "save_total_limit": 1, "max_steps": 5, "allow_inexact_resume": True}
    again = trainer_of(lora(), tmp_path, **said)
    again.train(resume_from_checkpoint="auto")
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-5"


@pytest.mark.parametrize("end", [{}, {"max_steps": 7, "allow_inexact_resume": True}])
def test_a_run_that_is_over_stays_as_it_is(tmp_path: Path, end: dict[str, Any]) -> None:
    straight = trainer_of(lora(0.2), tmp_path, **SAVING)
    straight.train()
    again = trainer_of(lora(0.2), tmp_path, **{**SAVING, **end})
    again.train(resume_from_checkpoint="auto")
    assert again.state.global_step == 9
    assert losses(again) == losses(straight)
    same, other = weights(straight.model), weights(again.model)
    assert all(torch.equal(same[name], other[name]) for name in same)
    assert checkpoint.committed(tmp_path)[-1].name == "checkpoint-9"


@pytest.mark.parametrize(("stored", "tuned"), [("lora", "full"), ("full", "lora"), ("two", "full")])
def test_adapters_and_a_whole_model_do_not_follow_each_other(tmp_path: Path, stored: str, tuned: str) -> None:
    trainer_of(MODELS[stored](), tmp_path, **SAVING).train()
    with pytest.raises(ConfigError, match=r"it holds .*, not"):
        trainer_of(MODELS[tuned](), tmp_path, **SAVING).train(resume_from_checkpoint="auto")


@pytest.mark.parametrize(("kind", "proposed"), [("lora", "--resume_only_model true"), ("full", "--model_id_or_path /")])
def test_weights_alone_are_begun_with_as_their_kind_allows(tmp_path: Path, kind: str, proposed: str) -> None:
    trainer_of(MODELS[kind](), tmp_path, **SAVING).train()
    with pytest.raises(ConfigError, match="seed was 42, is 7") as caught:
        trainer_of(MODELS[kind](), tmp_path, **{**SAVING, "seed": 7}).train(resume_from_checkpoint="auto")
    assert f", {proposed}" in str(caught.value)


def test_damage_and_absence_are_refused(tmp_path: Path) -> None:
    trainer_of(lora(), tmp_path, **SAVING, save_only_model=True).train()
    with pytest.raises(DataError, match=r"optimizer\.pt was not saved"):
        trainer_of(lora(), tmp_path, **SAVING).train(resume_from_checkpoint=tmp_path / "checkpoint-9")
    with pytest.raises(NotFoundError, match="not a directory"):
        trainer_of(lora(), tmp_path, **SAVING).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size was 4, is 2"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1, is 2"),
        ({"seed": 7}, "seed was 42, is 7"),
        ({"train": Rows(17)}, "rows was 16, is 17"),
        ({"learning_rate": 1e-3}, r"learning_rate was 0\.01, is 0\.001"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type was linear, is cosine"),
        ({"warmup_steps": 2}, "warmup_steps was 0, is 2"),
        ({"max_steps": 12}, "length was 9 steps, is 12 steps"),
        ({"weight_decay": 0.5}, r"weight_decay was 0, is 0\.5"),
        ({"learning_rate": 1e-3, "seed": 7}, r"seed was 42, is 7; learning_rate was"),
    ],
)
def test_another_run_is_refused(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], word: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ConfigError, match=word) as caught:
        trainer_of(lora(), tmp_path / "run", **{**SAVING, **changed}).train(resume_from_checkpoint="auto")
    assert caught.value.exit_code == 78
    assert "--allow_inexact_resume" in str(caught.value)
    on = trainer_of(lora(), tmp_path / "run", **{**SAVING, **changed}, allow_inexact_resume=True)
    on.train(resume_from_checkpoint="auto")
    assert re.search(f"resume: inexact because .*{word}", caplog.text)
    assert on.state.global_step >= 9


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that came to its end."""
    place = tmp_path_factory.mktemp("whole")
    trainer_of(lora(), place, **SAVING).train()
    return place


def rewritten(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Give a checkpoint another manifest, which is sound."""
    body = storage.read_manifest(directory)
    change(body)
    storage.write_bytes(directory / storage.MANIFEST, storage._sealed(body))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda body: body["versions"].update(transformers="5.0.0"), r"transformers was 5\.0\.0, is "),
        (lambda body: body["run"].update(world_size=2), "world_size was 2, is 1"),
        (lambda body: body["run"].update(device="NVIDIA H200"), "device was NVIDIA H200, is cpu"),
        (lambda body: body.pop("run"), "world_size was None, is 1"),
    ],
)
def test_another_machine_is_refused(whole: Path, tmp_path: Path, change: Any, word: str) -> None:
    shutil.copytree(whole, tmp_path / "run")
    rewritten(tmp_path / "run" / "checkpoint-9", change)
    with pytest.raises(ConfigError, match=word):
        trainer_of(lora(), tmp_path / "run", **SAVING).train(resume_from_checkpoint="auto")


@pytest.mark.parametrize(
    "said",
    [{"use_flash_attn": True}, {"quantization_bit": 4}, {"quant_method": "hqq", "hqq_axis": 0}, {"lora_rank": 4},
     {"dtype": "bf16"}, {"bnb_4bit_quant_type": "fp4"}, {"gradient_checkpointing": False}],
)  # fmt: skip
def test_how_the_model_computes_counts(tmp_path: Path, said: dict[str, Any]) -> None:
    with storage.staged_directory(tmp_path / "checkpoint-1") as stage:
        storage.write_json(stage / "sft_args.json", to_json(SftArguments()))
    found = differences(tmp_path / "checkpoint-1", {}, options=SftArguments(**said))
    assert sorted(each.partition(" was ")[0] for each in found) == sorted(said)
    assert differences(tmp_path / "checkpoint-1", {}, options=SftArguments()) == []


@pytest.mark.parametrize(("then", "now"), [(2, None), (None, 2)])
def test_into_how_many_parts_layers_are_cut_counts(tmp_path: Path, then: int | None, now: int | None) -> None:
    facts = [{} if degree is None else {"tensor_parallel_size": degree} for degree in (then, now)]
    with storage.staged_directory(tmp_path / "checkpoint-1", {"run": facts[0]}) as stage:
        (stage / "x").touch()
    assert differences(tmp_path / "checkpoint-1", facts[1]) == [f"tensor_parallel_size was {then or 1}, is {now or 1}"]
    assert differences(tmp_path / "checkpoint-1", facts[0]) == []


@pytest.mark.parametrize(
    "name", ["optimizer.pt", pytest.param("scheduler.pt", marks=pytest.mark.slow), "rng_state.pth"]
)
def test_code_in_a_state_never_runs(whole: Path, tmp_path: Path, name: str) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    shutil.copytree(whole / "checkpoint-6", tmp_path / "checkpoint-6")
    file = io.BytesIO()
    torch.save({"state": Payload()}, file)
    storage.rewrite(tmp_path / "checkpoint-6", name, file.getvalue())
    with pytest.raises(DataError, match="damaged or holds code") as caught:
        trainer_of(lora(), tmp_path / "on", **SAVING).train(resume_from_checkpoint=tmp_path / "checkpoint-6")
    assert (caught.value.exit_code, caught.value.code) == (65, "CKPT-01")
    assert not (tmp_path / "canary").exists()


def test_what_was_not_yet_written_down_is_not_asked_for(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    rewritten(tmp_path / "run" / "checkpoint-9", lambda body: [body["run"].pop("device"), body.pop("versions")])
    trainer_of(lora(), tmp_path / "run", **SAVING).train(resume_from_checkpoint="auto")


def test_a_constant_rate_may_go_on_longer(tmp_path: Path) -> None:
    said = {**SAVING, "lr_scheduler_type": "constant"}
    straight = trainer_of(lora(0.2), tmp_path / "straight", **{**said, "max_steps": 12})
    straight.train()
    trainer_of(lora(0.2), tmp_path / "on", **said).train()
    on = trainer_of(lora(0.2), tmp_path / "on", **{**said, "max_steps": 12})
    on.train(resume_from_checkpoint="auto")
    same, other = weights(straight.model), weights(on.model)
    assert all(torch.equal(same[name], other[name]) for name in same)


def test_another_base_or_scale_under_the_same_shapes_is_refused(tmp_path: Path) -> None:
    def tuned(seed: int = 0, **config: Any) -> Any:
        own = {"r": 4, "target_modules": ["q_proj"], **config}
        return Swift.prepare_model(tiny_model(vocab_size=VOCAB, hidden=32, seed=seed), LoraConfig(**own))

    trainer_of(tuned(), tmp_path, **SAVING).train()
    for model, word in (
        (tuned(seed=1), "the base model has other weights"),
        (tuned(lora_alpha=32), "lora_alpha of default was 8, is 32"),
        (tuned(lora_dropout=0.5), r"lora_dropout of default was 0(\.\d+)?, is 0\.5"),
    ):
        with pytest.raises(ConfigError, match=word):
            trainer_of(model, tmp_path, **SAVING).train(resume_from_checkpoint="auto")


def test_a_batch_that_was_learnt_is_not_made_again(tmp_path: Path) -> None:
    class Counted(Rows):
        def __getitem__(self, index: int) -> dict[str, list[int]]:
            asked.append(index)
            return super().__getitem__(index)

    asked: list[int] = []
    said = {**SAVING, "per_device_train_batch_size": 2, "max_steps": 20, "save_steps": 5}
    trainer_of(lora(), tmp_path, train=Counted(16), **said).train()
    order = list(asked)
    asked.clear()
    shutil.rmtree(tmp_path / "checkpoint-20")
    trainer_of(lora(), tmp_path, train=Counted(16), **said).train(resume_from_checkpoint="auto")
    assert asked == order[30:]  # from within epoch 1 on, whose order is another than that of epoch 0
    assert sorted(order[:16]) == sorted(order[16:32]) == list(range(16))
    assert order[:16] != order[16:32]


def test_other_data_may_follow_when_its_start_is_asked_for(tmp_path: Path) -> None:
    trainer_of(lora(), tmp_path, **SAVING).train()
    on = trainer_of(lora(), tmp_path, train=Rows(40), **{**SAVING, "max_steps": 12}, ignore_data_skip=True)
    on.train(resume_from_checkpoint="auto")
    assert on.state.global_step == 12


def test_a_tuner_of_another_shape_is_refused(tmp_path: Path) -> None:
    trainer_of(lora(), tmp_path, **SAVING).train()
    for other in (
        {"r": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        {"r": 4, "target_modules": ["q_proj"]},
    ):
        model = Swift.prepare_model(tiny_model(vocab_size=VOCAB, hidden=32), LoraConfig(**other))
        with pytest.raises(DataError, match="does not fit the model"):
            trainer_of(model, tmp_path, **SAVING).train(resume_from_checkpoint="auto")
    with pytest.raises(DataError, match="does not fit"):
        trainer_of(two_tuners(), tmp_path, **SAVING).train(resume_from_checkpoint="auto")
    named = lora()
    named.add_adapter("other", named.peft_config["default"])
    named.set_adapter("other")
    with pytest.raises(DataError, match="has no adapter 'other'"):
        trainer_of(named, tmp_path, **SAVING).train(resume_from_checkpoint="auto")


def test_what_an_adapter_checkpoint_holds(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "configuration.json").write_text('{"task": "chat", "more": 1}')
    args = SftArguments(
        model_id_or_path=str(tmp_path / "model"), sft_type="lora", template_type="chatml", system="你好", dtype="fp32"
    )
    template = SimpleNamespace(name="chatml", stop_ids=[2, 5])
    said = {**SAVING, "additional_saved_files": [str(tmp_path / "note.txt")], "tokenizer": tiny_tokenizer(VOCAB)}
    trainer_of(lora(), tmp_path, sft_args=args, template=template, **said).train()
    found = tmp_path / "checkpoint-9"
    names = {path.name for path in found.iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "configuration.json", "sft_args.json",
        "generation_config.json", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
        "manifest.json", "note.txt", "chat_template.jinja",
    }  # fmt: skip
    configuration = json.loads((found / "configuration.json").read_text())
    assert configuration["framework"] == "pytorch"
    assert (configuration["task"], configuration["more"]) == ("chat", 1)
    assert configuration["adapter_cfg"]["template_type"] == "chatml"
    assert configuration["adapter_cfg"]["system"] == "你好"
    assert json.loads((found / "sft_args.json").read_text())["sft_type"] == "lora"
    assert (found / "sft_args.json").stat().st_mode & 0o077 == 0
    assert json.loads((found / "generation_config.json").read_text())["eos_token_id"] == [2, 5]
    manifest = storage.read_manifest(found)
    assert manifest["step"] == 9
    assert manifest["run"]["template"] == "chatml"
    assert manifest["run"]["rows"] == 16


def test_a_whole_model_is_loadable_by_transformers(tmp_path: Path) -> None:
    model = tiny_model(hidden=32)
    model.config.use_cache = True
    args = SftArguments(model_id_or_path="hub/name", sft_type="full")
    trainer_of(model, tmp_path, tokenizer=tiny_tokenizer(), sft_args=args, **SAVING).train()
    found = tmp_path / "checkpoint-9"
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(os.listdir(found))
    assert "training_args.bin" not in os.listdir(found)
    assert "adapter_cfg" not in json.loads((found / "configuration.json").read_text())
    assert model.config.use_cache is False
    loaded = AutoModelForCausalLM.from_pretrained(found)
    assert loaded.config.use_cache is True
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_two_tuners_are_saved_as_safetensors_and_the_best_comes_back(tmp_path: Path) -> None:
    model = two_tuners()
    said = {**SAVING, "eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "learning_rate": 0.5}
    trainer = trainer_of(model, tmp_path, val=Rows(5, seed=8), **said)
    trainer.train()
    best = Path(str(trainer.state.best_model_checkpoint))
    assert (best / "first" / "adapter_model.safetensors").is_file()
    assert (best / "second" / "adapter_model.safetensors").is_file()
    fresh = Swift.from_pretrained(tiny_model(vocab_size=VOCAB, hidden=32), best, is_trainable=True)
    same, other = weights(model), weights(fresh)
    assert all(torch.equal(same[name], other[name]) for name in same)
    peft_best = trainer_of(lora(), tmp_path / "peft", val=Rows(5, seed=8), **said)
    peft_best.train()
    assert peft_best.state.best_model_checkpoint


def test_any_module_is_saved(tmp_path: Path) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model(vocab_size=VOCAB, hidden=32)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    trainer_of(Wrapped(), tmp_path, **SAVING).train()
    said = {**SAVING, "max_steps": 12, "allow_inexact_resume": True}
    trainer_of(Wrapped(), tmp_path, **said).train(resume_from_checkpoint="auto")
    assert (tmp_path / "checkpoint-12" / "model.safetensors").is_file()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = lora()
    trainer = trainer_of(model, tmp_path, **SAVING)
    trainer.train()
    trainer.state.global_step = 10
    with torch.no_grad():
        next(iter(p for p in model.parameters() if p.requires_grad))[0, 0] = float("nan")
    with pytest.raises(InternalError, match="holds NaN") as caught:
        trainer._save_checkpoint(model, None)
    assert "checkpoint-9" in str(caught.value.fix)
    assert not (tmp_path / "checkpoint-10").exists()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(lora(), tmp_path, **SAVING)

    def fail(stage: str) -> None:
        if trainer.state.global_step == 6:
            raise RuntimeError("[enforce fail at inline_container.cc:783] . unexpected pos 556736 vs 556628")

    monkeypatch.setattr(trainer, "_save_scaler", fail)
    with pytest.raises(DiskError, match="No space left"):
        trainer.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "logging.jsonl"]
    assert storage.verify(tmp_path / "checkpoint-3") == []


def test_options_are_saved_as_decided(tmp_path: Path) -> None:
    args = replace(SftArguments(), output_dir=str(tmp_path), sft_type="lora")
    trainer_of(lora(), tmp_path, sft_args=args, **SAVING).train()
    saved = json.loads((tmp_path / "checkpoint-9" / "sft_args.json").read_text())
    assert saved["output_dir"] == str(tmp_path)


@pytest.mark.parametrize("limit", [0, 300, 3_000, 10_000])
def test_a_disk_that_takes_no_more_leaves_what_was(whole: Path, tmp_path: Path, limit: int) -> None:
    """Every kind of writer meets the limit: Python's, torch's and that of safetensors."""
    shutil.copytree(whole, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    trainer = trainer_of(lora(), tmp_path / "run", **SAVING)
    trainer.create_optimizer_and_scheduler(9)
    trainer.state.global_step = 10
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            trainer._save_checkpoint(trainer.model, None)
        except DiskError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 74
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]

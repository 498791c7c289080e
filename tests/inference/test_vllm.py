"""`--infer_backend vllm` and the names around it: with vLLM (a small one of our own here) and where it is absent."""

from __future__ import annotations

import json
import shutil
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from swift.arguments.infer import InferArguments
from swift.commands.infer import infer_main
from swift.commands.prepare import prepare_model_template, prepare_vllm_engine_template
from swift.errors import ConfigError, DataError, SwiftError, UsageError
from swift.inference.answer import Reader
from swift.inference.engine import Request
from swift.inference.generate import generate_batch, inference
from swift.inference.prompt import make_turn
from swift.inference.service import Service
from swift.inference.settings import prepare_generation_config
from swift.inference.vllm import (
    LoRARequest,
    VllmGenerationConfig,
    get_vllm_engine,
    inference_stream_vllm,
    inference_vllm,
)
from tests.inference import fake_vllm
from tests.tiny import save_tiny

QUESTIONS = ["What is the capital of France?", "hi", "你好，世界。", "one two three four five", "def add(a, b):"]
ROWS = [{"query": query} for query in QUESTIONS]
GREEDY = VllmGenerationConfig(max_new_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), "llama", initializer_range=0.2)


@pytest.fixture(scope="module")
def lora(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(home), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    place = tmp_path_factory.mktemp("lora")
    tuned.save_pretrained(place)
    return place


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[fake_vllm.LLMEngine]:
    return fake_vllm.install(monkeypatch)


@pytest.fixture(params=["absent", "there"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "there":
        fake_vllm.install(monkeypatch)
    else:
        monkeypatch.setattr("swift.inference.vllm_engine.missing", lambda: "vLLM is not installed")
        monkeypatch.setattr("swift.inference.vllm.missing", lambda: "vLLM is not installed")
    return request.param == "there"


def plain(home: Path, rows: list[dict[str, Any]] = ROWS, **said: Any) -> list[str]:
    """What transformers says, one question alone."""
    prepared = prepare_model_template(InferArguments(model_id_or_path=str(home), dtype="fp32", **said))
    config = GenerationConfig(do_sample=False, max_new_tokens=12)
    return [
        inference(prepared.model, prepared.template, row["query"], row.get("history"), generation_config=config)[0]
        for row in rows
    ]


def template_of(home: Path) -> Any:
    return prepare_vllm_engine_template(InferArguments(model_id_or_path=str(home), dtype="fp32"))


def test_a_list_is_answered_with_vllm_and_without(home: Path, either: bool, caplog: pytest.LogCaptureFixture) -> None:
    engine, template = template_of(home)
    assert ("vLLM is not installed" in caplog.text) is not either
    rows = [*ROWS, {"query": "and?", "history": [["hi", "hello"]]}]
    found = inference_vllm(engine, template, rows, generation_config=GREEDY)
    assert [each["response"] for each in found] == plain(home, rows)
    assert found[-1]["history"] == [["hi", "hello"], ["and?", found[-1]["response"]]]
    *_, last = shown = list(inference_stream_vllm(engine, template, rows, generation_config=GREEDY))
    assert last == found
    assert len(shown) == max(2, 12)
    for k in range(len(rows)):
        said = [each[k]["response"] for each in shown]
        assert all(longer.startswith(shorter) for shorter, longer in pairwise(said))
    assert inference_vllm(engine, template, [], generation_config=GREEDY) == []


def test_the_engine_knows_its_model(home: Path, either: bool, lora: Path) -> None:
    engine = get_vllm_engine(None, torch.float32, model_id_or_path=str(home), enable_lora=True, max_model_len=200)
    assert engine.model_dir == str(home)
    assert engine.hf_tokenizer.eos_token == "<|im_end|>"
    assert engine.generation_config.max_new_tokens == 16
    template = template_of(home)[1]
    asked = LoRARequest("mine", 1, str(lora))
    tuned = [
        each["response"]
        for each in inference_vllm(engine, template, ROWS, generation_config=GREEDY, lora_request=asked)
    ]
    expected = plain(home, ckpt_dir=str(lora))
    assert tuned == expected
    assert tuned != plain(home)
    with pytest.raises(ConfigError, match="enable_lora"):
        inference_vllm(
            get_vllm_engine(None, torch.float32, model_id_or_path=str(home)), template, ROWS, lora_request=asked
        )


def test_infer_deploys_on_vllm(home: Path, vllm: Any, tmp_path: Path) -> None:
    said = {"model_id_or_path": str(home), "dtype": "fp32", "infer_backend": "vllm", "do_sample": False,
            "max_new_tokens": 12, "save_result": False, "max_model_len": 128, "max_num_seqs": 2,
            "gpu_memory_utilization": 0.4, "enforce_eager": True, "prompt_lookup_num_tokens": 3}  # fmt: skip
    assert infer_main(query=QUESTIONS[0], **said)["result"][0]["response"] == plain(home)[0]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"query": "{query}"}}\n' for query in QUESTIONS))
    found = infer_main(dataset=[str(rows)], **said)["result"]
    assert [each["response"] for each in found] == plain(home)
    (*_, engine) = vllm.started
    assert engine.widest == 2
    assert (engine.args.dtype, engine.args.max_model_len, engine.args.gpu_memory_utilization) == ("float32", 128, 0.4)
    assert engine.args.enforce_eager
    assert engine.args.speculative_config["num_speculative_tokens"] == 3


def asked(prepared: Any, query: str, **more: Any) -> Request:
    turn = make_turn(prepared.template, {"query": query})
    config = prepare_generation_config(prepared.model, prepared.template, GenerationConfig(max_new_tokens=20))
    return Request(turn.prompt_ids, config, Reader(prepared.template, config.eos_token_id), **more)


@pytest.fixture
def prepared(home: Path, vllm: Any) -> Any:
    return prepare_model_template(InferArguments(model_id_or_path=str(home), dtype="fp32", infer_backend="vllm"))


def test_an_answer_stops_where_ours_does(prepared: Any, vllm: Any) -> None:
    engine = prepared.model.engine
    whole = next(engine.run([asked(prepared, "hi", logprobs=2)]))
    assert len(whole.ids) == 20
    assert len(whole.logprobs) == 20
    assert [told.id for told in whole.logprobs] == whole.ids
    assert [len(told.likeliest) for told in whole.logprobs] == [2] * 20
    assert all(told.likeliest[0] == (told.id, told.logprob) for told in whole.logprobs)  # the likeliest was taken
    stop, growing = threading.Event(), asked(prepared, "hi")
    *_, cut = (stop.set() or each if len(each.ids) == 3 else each for each in engine.stream(growing, stop))
    assert cut.finish_reason == "stopped"
    assert cut.ids == whole.ids[:3]
    word = prepared.template.tokenizer.decode(whole.ids[5:7])
    rows = [{"query": "hi"}]
    ((_, answer),) = generate_batch(
        prepared.model, prepared.template, rows, GenerationConfig(max_new_tokens=20), stop_words=[word]
    )
    assert word not in answer.text
    assert answer.finish_reason == "stop"
    assert len(vllm.started[-1].aborted) == 2
    assert not vllm.started[-1].rows


def test_what_vllm_refuses_is_told_and_the_others_are_answered(prepared: Any) -> None:
    engine = prepared.model.engine
    bad, good = engine.submit(asked(prepared, "hi", logprobs=99)), engine.submit(asked(prepared, "hi"))
    while good.finish_reason is None:
        engine.step()
    assert isinstance(bad.failure, SwiftError)
    assert "too many logprobs" in str(bad.failure)
    assert good.finish_reason == "length"
    assert not engine.busy
    lost = engine.submit(asked(prepared, "hi"))
    engine.step()
    assert engine.give_up(RuntimeError("gone")) == [lost]
    assert not engine.busy


def test_who_comes_for_an_adapter_that_has_just_gone_ends_nobody_elses_answer(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, late = prepared.model.engine, list[Any]()
    begin = engine._drop_cancelled
    monkeypatch.setattr(engine, "knows", lambda adapter: adapter != "gone")

    def begin_and_be_asked() -> Any:
        found = begin()
        late.extend([] if late else [engine.submit(asked(prepared, "hi", adapter="gone"))])
        return found

    monkeypatch.setattr(engine, "_drop_cancelled", begin_and_be_asked)
    good = engine.submit(asked(prepared, "hi"))
    while engine.busy:
        engine.step()
    assert (good.finish_reason, late[0].finish_reason) == ("length", "stopped")


def test_a_lora_with_tokens_of_its_own_is_not_plain(prepared: Any, lora: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"trainable_token_indices": [3]}))
    engine = prepared.model.engine
    engine.rank = 8
    engine.add_adapter("plain", lora)
    with pytest.raises(DataError, match="not a plain LoRA"):
        engine.add_adapter("tokens", tmp_path / "lora")


def test_sampling_is_vllms_own_with_our_seed(prepared: Any) -> None:
    config = GenerationConfig(max_new_tokens=12, do_sample=True, temperature=2.0, top_k=0, top_p=1.0)
    rows = [{"query": "hi"}] * 4

    def said(seed: int) -> list[str]:
        return [answer.text for _, answer in generate_batch(prepared.model, prepared.template, rows, config, seed=seed)]

    assert said(1) == said(1) != said(2)
    assert len(set(said(1))) > 1


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"num_beams": 2}, "no --num_beams"),
        ({"quantization_bit": 4, "quant_method": "bnb"}, "as they are saved"),
        ({"max_model_len": 10**6}, "does not start"),
        ({"ckpt_dir": "lora"}, "--vllm_enable_lora true"),
        ({"ckpt_dir": "lora", "vllm_enable_lora": True, "vllm_max_lora_rank": 2}, "--vllm_max_lora_rank 4"),
    ],
)
def test_what_vllm_cannot_do(home: Path, lora: Path, vllm: Any, said: dict[str, Any], says: str) -> None:
    said = {**said, **({"ckpt_dir": str(lora)} if "ckpt_dir" in said else {})}
    with pytest.raises(ConfigError) as caught:
        prepare_model_template(InferArguments(model_id_or_path=str(home), dtype="fp32", infer_backend="vllm", **said))
    assert says in str(caught.value)


def test_an_adapter_beside_the_model(home: Path, lora: Path, vllm: Any) -> None:
    said = {
        "model_id_or_path": str(home),
        "dtype": "fp32",
        "do_sample": False,
        "max_new_tokens": 12,
        "save_result": False,
    }
    more = {"infer_backend": "vllm", "vllm_enable_lora": True, "ckpt_dir": str(lora)}
    assert infer_main(query=QUESTIONS[0], **said, **more)["result"][0]["response"] == plain(home, ckpt_dir=str(lora))[0]


def test_options_of_vllm_say_when_nothing_looks_at_them(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    infer_main(model_id_or_path=str(home), query="hi", max_new_tokens=2, save_result=False, enforce_eager=True)
    assert "only --infer_backend vllm looks at --enforce_eager" in caplog.text


def test_settings_have_the_names_of_transformers(home: Path, either: bool) -> None:
    config = VllmGenerationConfig(top_k=-1)
    config.max_new_tokens, config.do_sample = 3, False
    assert (config.temperature, config.do_sample) == (0.0, False)
    assert config.for_transformers().max_new_tokens == 3
    assert VllmGenerationConfig(num_beams=3).for_transformers().num_beams == 3
    with pytest.raises(UsageError, match="max_new_tokens"):
        config.max_length = 3
    engine, template = template_of(home)
    with pytest.raises(UsageError, match="one answer"):
        inference_vllm(engine, template, ROWS, generation_config=VllmGenerationConfig(n=2))
    with pytest.raises(DataError, match="request 1 has no query, only question"):
        inference_vllm(engine, template, [{"query": "hi"}, {"question": "hi"}])
    with pytest.raises(DataError, match="no room"):
        inference_vllm(engine, template, [{"query": "x " * 600}], generation_config=GREEDY)
    with pytest.raises(SwiftError, match=r"beam|stream"):
        list(inference_stream_vllm(engine, template, ROWS, generation_config=VllmGenerationConfig(num_beams=2)))
    word = inference_vllm(engine, template, ROWS[:1], generation_config=GREEDY)[0]["response"][3:6]
    cut = VllmGenerationConfig(12, 0.0, stop=[word])
    assert word not in inference_vllm(engine, template, ROWS[:1], generation_config=cut)[0]["response"]


def test_an_adapter_answers_only_those_who_name_it(home: Path, lora: Path, either: bool) -> None:
    engine = get_vllm_engine(None, torch.float32, model_id_or_path=str(home), enable_lora=True)
    template = template_of(home)[1]

    def said(lora_request: LoRARequest | None = None) -> str:
        return inference_vllm(
            engine, template, ROWS[:1], generation_config=VllmGenerationConfig(6, 0.0), lora_request=lora_request
        )[0]["response"]

    before, tuned, after = said(), said(LoRARequest("mine", 1, str(lora))), said()
    assert before == after != tuned


def test_an_engine_that_died_tells_all_who_wait(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class EngineDeadError(Exception):
        """What vLLM raises, and is no RuntimeError."""

    def dead(*args: Any, **options: Any) -> None:
        raise EngineDeadError("gone")

    service = Service(prepared.model.engine)
    with monkeypatch.context() as broken:
        for name in ("add_request", "abort_request"):
            broken.setattr(prepared.model.engine.engine, name, dead)
        told = threading.Semaphore(0)
        going = [service.submit(asked(prepared, "hi"), told.release) for _ in range(3)]
        assert all(told.acquire(timeout=5) for _ in going)
        assert [str(each.failure) for each in going] == ["gone"] * 3
    assert service.between_steps(lambda: 5).result(5) == 5  # its thread is alive
    assert next(service.run([asked(prepared, "hi")])).finish_reason == "length"
    service.close()

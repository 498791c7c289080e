"""Laws of continuous batching: every answer is that of `model.generate` alone, whoever else is in the batch."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from swift.inference.angles import angles_by_length
from swift.inference.answer import Reader
from swift.inference.batching import Batching, serves
from swift.inference.cache import SlotCache
from swift.inference.engine import BASE, Request
from swift.inference.prefixes import Prefixes
from swift.inference.settings import prepare_generation_config
from swift.inference.whole import Whole
from tests.inference.fake import FakeTemplate
from tests.tiny import tiny_model, tiny_tokenizer

QUICK = ("llama", "gemma2")
KINDS = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "llama": {},
    "gpt2": {},
    "mistral": {"sliding_window": 16},
    "gemma2": {"sliding_window": 16, "head_dim": 16},
    "phi3": {},
}
TURNING = {
    "llama": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
              "max_position_embeddings": 24},
    "phi3": {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
                                 "long_factor": [6.0] * 8, "original_max_position_embeddings": 24},
             "max_position_embeddings": 256, "original_max_position_embeddings": 24},
}  # fmt: skip
QUESTIONS = ["What is the capital of France?", "hi", "你好，世界。你是谁？", "one two three four five " * 5, ""]


@pytest.fixture(scope="module")
def template():
    return FakeTemplate(tiny_tokenizer())


def make(kind, template):
    return tiny_model(kind, vocab_size=len(template.tokenizer), initializer_range=0.2, **KINDS.get(kind, {})).eval()


def requests_for(model, template, count=20, **settings):
    """Requests of many lengths, every second with a long system prompt; `settings` may hold lists, one value each."""
    made = []
    for k in range(count):
        system = "Be a kind and helpful assistant who answers at length." if k % 2 else None
        row = {"query": QUESTIONS[k % len(QUESTIONS)] * (1 + k % 2), "history": [], "system": system}
        ids = template.encode(row)[0]["input_ids"]
        said = GenerationConfig(max_new_tokens=4 + k * 7 % 23, **settings)
        config = prepare_generation_config(model, template, said, num_prompt_tokens=len(ids))
        made.append(Request(ids, config, Reader(template, config.eos_token_id)))
    return made


def alone(model, request):
    ids = torch.tensor([request.prompt_ids])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=request.config)
    return output[0, ids.shape[1] :].tolist()


def answers(engine, requests):
    ended = {id(each.request): each for each in engine.run(requests)}
    return [ended[id(request)] for request in requests]


def test_nothing_of_the_last_rows_is_kept_while_nobody_asks(template):
    model = make("llama", template)
    engine, requests = Batching(model, 4), requests_for(model, template, 6)
    first = [each.ids for each in answers(engine, requests)]
    assert not engine._cache.slots
    assert not engine._rows
    assert engine.cache_tokens, "what a token takes is known from then on"
    assert [each.ids for each in answers(engine, requests)] == first


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_each_answer_is_that_of_generate(kind, template):
    model = make(kind, template)
    requests = requests_for(model, template)
    expected = [alone(model, request) for request in requests]
    for slots, prefixes in ((1, None), (3, Prefixes()), (8, None), (64, Prefixes())):
        found = answers(Batching(model, slots, prefixes=prefixes), requests)
        assert [each.ids for each in found] == expected
        limits = [request.config.max_new_tokens for request in requests]
        ends = [each.ids[-1] == template.stop_ids[0] for each in found]
        assert all(end or len(each.ids) == limit for each, end, limit in zip(found, ends, limits, strict=True))
        assert [each.finish_reason for each in found] == ["stop" if end else "length" for end in ends]
    assert prefixes.reused_tokens > 100


def test_prompts_are_read_in_pieces_that_fit_and_rows_wait_for_memory(template):
    model = make("qwen2", template)
    requests = requests_for(model, template)
    expected = [each.ids for each in answers(Batching(model, 64), requests)]
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    assert [each.ids for each in answers(Batching(model, 64, prefill_tokens=100), requests)] == expected
    longest = max(len(request.prompt_ids) for request in requests)
    assert max(rows * tokens for rows, tokens in seen) <= max(100, longest, 64)
    seen.clear()
    assert [each.ids for each in answers(Batching(model, 64, cache_tokens=300), requests)] == expected
    handle.remove()
    assert max(rows for rows, tokens in seen if tokens == 1) < 8


def test_settings_are_each_rows_own(template):
    model = make("llama", template)
    plain = requests_for(model, template, 6)
    penalised = requests_for(model, template, 6, repetition_penalty=1.7)
    mixed = [request for pair in zip(plain, penalised, strict=True) for request in pair]
    assert [each.ids for each in answers(Batching(model, 16), mixed)] == [alone(model, request) for request in mixed]


def test_a_seed_is_all_that_an_answer_depends_on(template):
    model = make("qwen2", template)
    warm = requests_for(model, template, 8, do_sample=True, temperature=1.5, top_k=40, top_p=0.9)
    seeded = [Request(request.prompt_ids, request.config, request.reader, seed=k % 4) for k, request in enumerate(warm)]
    together = [each.ids for each in answers(Batching(model, 8), seeded)]
    assert [answers(Batching(model, 1), [request])[0].ids for request in seeded] == together
    torch.manual_seed(3)
    drawn = [each.ids for each in answers(Batching(model, 8), warm)]
    torch.manual_seed(3)
    assert [each.ids for each in answers(Batching(model, 2), warm)] == drawn != together


def test_logprobs_are_the_models_own(template):
    model = make("qwen2", template)
    (request,) = requests_for(model, template, 1, do_sample=True, temperature=3.0)
    request = Request(request.prompt_ids, request.config, request.reader, seed=1, logprobs=3)
    ((generation),) = Batching(model).run([request])
    ids = torch.tensor([[*request.prompt_ids, *generation.ids]])
    with torch.no_grad():
        logits = model(ids).logits
    expected = logits[0].log_softmax(-1)[len(request.prompt_ids) - 1 :]
    for found, row, token in zip(generation.logprobs, expected, generation.ids, strict=False):
        assert found.id == token
        assert found.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [i for i, _ in found.likeliest] == row.topk(3).indices.tolist()
    assert len(generation.logprobs) == len(generation.ids)


def test_adapters_of_one_batch_answer_as_alone(template):
    model = make("qwen2", template)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]), "one")
    tuned.add_adapter("two", LoraConfig(r=2, target_modules=["o_proj"]))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    plain = requests_for(tuned, template, 9)
    names = [BASE, "one", "two"] * 3
    requests = [Request(r.prompt_ids, r.config, r.reader, adapter=n) for r, n in zip(plain, names, strict=True)]
    together = answers(Batching(tuned, 16, prefixes=Prefixes()), requests)
    single = [answers(Batching(tuned, 1), [request])[0].ids for request in requests]
    assert [each.ids for each in together] == single
    tuned.set_adapter("two")
    assert single[2] == answers(Batching(tuned, 1), [plain[2]])[0].ids
    assert answers(Batching(tuned, 4), [plain[2], requests[4]])[0].ids == single[2]
    with tuned.disable_adapter():
        assert single[3] == answers(Batching(tuned, 1), [plain[3]])[0].ids
    assert single[1] != alone(tuned, plain[1])


def test_whoever_goes_leaves_no_trace(template):
    model = make("qwen2", template)
    requests = requests_for(model, template, 12)
    expected = [alone(model, request) for request in requests]
    engine = Batching(model, 4)
    generations = [engine.submit(request) for request in requests]
    engine.step()
    for generation in generations[::3]:
        generation.cancel()
    while engine.busy:
        engine.step()
    for k, generation in enumerate(generations):
        assert generation.finish_reason == ("stopped" if k % 3 == 0 else generation.finish_reason)
        assert generation.ids == expected[k][: len(generation.ids)]
        assert k % 3 == 0 or len(generation.ids) == len(expected[k])
    assert (engine.num_running, engine.num_waiting) == (0, 0)


def test_a_row_that_ended_at_the_models_length_ends_nobody_elses_answer(template):
    model = tiny_model("gpt2", vocab_size=len(template.tokenizer), initializer_range=0.2, n_positions=48).eval()
    (plain,) = requests_for(model, template, 1)
    requests = []
    for length in [44, *[8] * 9]:
        config = copy.deepcopy(plain.config)
        config.max_new_tokens, config.eos_token_id = 48 - length if length == 44 else 12, None
        ids = (plain.prompt_ids * 48)[:length]
        requests.append(Request(ids, config, plain.reader))
    assert [each.ids for each in answers(Batching(model, 16), requests)] == [alone(model, each) for each in requests]


def test_who_comes_for_an_adapter_that_has_just_gone_ends_nobody_elses_answer(template, monkeypatch):
    tuned = get_peft_model(make("qwen2", template), LoraConfig(r=2, target_modules=["q_proj"]), "one").eval()
    first, second = requests_for(tuned, template, 2)
    engine, late = Batching(tuned, 4), []
    engine.knows = lambda adapter: adapter != "gone"
    begin = engine._drop_cancelled

    def begin_and_be_asked():
        found = begin()
        if whole.ids and not late:
            late.extend([engine.submit(replace(second, adapter="gone")), engine.submit(second)])
        return found

    monkeypatch.setattr(engine, "_drop_cancelled", begin_and_be_asked)
    whole = engine.submit(first)
    while engine.busy:
        engine.step()
    assert [each.ids for each in (whole, late[1])] == [alone(tuned, first), alone(tuned, second)]
    assert (late[0].finish_reason, late[0].ids) == ("stopped", [])


def test_a_place_holds_nothing_of_who_had_it():
    cache = SlotCache.of([[(torch.ones(1, 6, 2), torch.ones(1, 6, 2))], [(torch.full((1, 6, 2), torch.nan),) * 2]], 6)
    come = SlotCache.of([[(torch.full((1, 3, 2), 2.0),) * 2]] * 2, 3)
    assert cache.splice([1], come) == [1, 2]
    for array in cache.slots[0].used():
        assert array[:, 0, :, 0].tolist() == [[1] * 6, [0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 2]]


@pytest.mark.parametrize("engine", [Batching, Whole])
def test_a_stream_ends_with_its_event(engine, template):
    model = make("qwen2", template)
    (request,) = requests_for(model, template, 1)
    request.config.max_new_tokens = 200
    whole = [list(generation.ids) for generation in engine(model).stream(request, threading.Event())]
    assert whole[-1][: len(alone(model, request))] == alone(model, request)
    stop = threading.Event()
    seen = []
    for generation in engine(model).stream(request, stop):
        seen.append((generation.finish_reason, len(generation.ids)))
        stop.set()
    assert seen[-1][0] == "stopped"
    assert seen[-1][1] < len(whole[-1])


def test_what_generate_is_left_with(template):
    model = make("qwen2", template)
    assert serves(model, GenerationConfig())
    assert not serves(model, GenerationConfig(num_beams=2))
    mamba = tiny_model("mamba", vocab_size=len(template.tokenizer), state_size=4)
    assert not serves(mamba, GenerationConfig())
    requests = requests_for(mamba, template, 5)
    for request, generation in zip(requests, answers(Whole(mamba, 1), requests), strict=True):
        assert generation.ids == alone(mamba, request)[: len(generation.ids)]


def test_the_same_by_generate(template):
    model = make("llama", template)
    requests = requests_for(model, template, 10)
    assert [e.ids for e in answers(Whole(model, 4), requests)] == [e.ids for e in answers(Batching(model), requests)]


@pytest.mark.parametrize("kind", TURNING)
def test_rows_whose_angles_depend_on_the_longest_are_answered_one_by_one(kind, template, caplog):
    model = tiny_model(kind, vocab_size=len(template.tokenizer), initializer_range=0.2, **TURNING[kind]).eval()
    requests = [replace(request, config=copy.deepcopy(request.config)) for request in requests_for(model, template, 8)]
    for request in requests:
        request.config.max_new_tokens = 20
    lengths = [len(request.prompt_ids) for request in requests]
    assert min(lengths) < 24 < max(lengths)
    expected = [alone(copy.deepcopy(model), request) for request in requests]  # a row leaves its angles in the model
    caplog.set_level("INFO")
    engine = Batching(model, 8, prefixes=Prefixes())
    assert f"one answer at a time: with {engine.turning} RoPE" in caplog.text
    assert [each.ids for each in answers(engine, requests)] == expected
    assert [each.ids for each in answers(Whole(copy.deepcopy(model), 8), requests[:2])] == expected[:2]
    assert angles_by_length(make("qwen2", template)) is None

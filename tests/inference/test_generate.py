import threading
import warnings
from collections import Counter
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from swift import AdapterConfig, Swift
from swift.errors import DataError, UsageError
from swift.inference.answer import Reader
from swift.inference.engine import BASE, Request
from swift.inference.generate import Answer, generate_batch, inference, inference_stream, to_device
from swift.inference.prompt import make_turn
from swift.inference.settings import prepare_generation_config
from swift.inference.whole import Whole
from tests.inference.fake import FakeTemplate
from tests.tiny import tiny_model

GREEDY = GenerationConfig(max_new_tokens=24, do_sample=False)
QUESTIONS = [
    "What is the capital of France?",
    "hi",
    "你好，世界。你是谁？",
    "one two three four five six seven eight nine ten " * 3,
    "Who are you?",
    "",
    "how are you today, my friend?",
]


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def model(request, tokenizer):
    return tiny_model(request.param, vocab_size=len(tokenizer), initializer_range=0.2).eval()


@pytest.fixture(scope="module")
def stopping_model(tokenizer):
    """A model that ends most answers by itself, after a few tokens."""
    model = tiny_model(vocab_size=len(tokenizer), seed=1, initializer_range=0.3).eval()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 1.5
    return model


@pytest.fixture
def template(tokenizer):
    return FakeTemplate(tokenizer)


def prompt_of(template, query, history=None, system=None):
    return make_turn(template, {"query": query, "history": history, "system": system}).prompt_ids


def reference(model, template, prompt, new=24):
    """The ids that plain transformers generates, up to its end of turn."""
    ids = torch.tensor([prompt])
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
        eos_token_id=template.stop_ids, pad_token_id=0,
    )  # fmt: skip
    new_ids = output[0, len(prompt) :].tolist()
    return new_ids[: new_ids.index(template.stop_ids[0])] if template.stop_ids[0] in new_ids else new_ids


def test_greedy_answers_are_those_of_plain_transformers(model, template):
    for query in QUESTIONS:
        expected = template.tokenizer.decode(reference(model, template, prompt_of(template, query)))
        assert inference(model, template, query, generation_config=GREEDY)[0] == expected


def test_batches_answer_as_single_questions_do_and_in_order(model, template):
    single = [inference(model, template, query, generation_config=GREEDY)[0] for query in QUESTIONS]
    rows = [{"query": query} for query in QUESTIONS]
    for batch_size in (1, 3, 16):
        answers = list(generate_batch(model, template, rows, GREEDY, batch_size))
        assert [number for number, _ in answers] == list(range(len(rows)))
        assert [answer.text for _, answer in answers] == single


def test_answers_that_stop_are_cut_at_the_end_of_turn(stopping_model, template):
    reasons = set()
    for number, answer in generate_batch(stopping_model, template, [{"query": q} for q in QUESTIONS], GREEDY):
        ids = reference(stopping_model, template, prompt_of(template, QUESTIONS[number]))
        assert answer.text == template.tokenizer.decode(ids)
        assert "<|im_end|>" not in answer.text
        assert answer.num_generated_tokens == min(len(ids) + 1, 24)
        assert answer.finish_reason == ("stop" if len(ids) < 24 else "length")
        reasons.add(answer.finish_reason)
    assert reasons == {"stop", "length"}


def test_a_stream_grows_and_ends_in_the_answer(model, template):
    for query in QUESTIONS:
        whole, history = inference(model, template, query, [["a", "b"]], generation_config=GREEDY)
        shown = list(inference_stream(model, template, query, [["a", "b"]], generation_config=GREEDY))
        assert shown[-1] == (whole, history)
        texts = [text for text, _ in shown]
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
        assert not any(text.endswith("\ufffd") for text in texts[:-1])


def test_sampling_with_a_seed_is_the_same_streamed(model, template):
    config = GenerationConfig(max_new_tokens=24, do_sample=True, temperature=0.8, top_k=20, top_p=0.9)
    torch.manual_seed(5)
    whole = inference(model, template, "hi", generation_config=config)[0]
    torch.manual_seed(5)
    assert list(inference_stream(model, template, "hi", generation_config=config))[-1][0] == whole


def test_history_is_added_to_and_never_changed(stopping_model, template):
    past = [("q1", "a1"), ["q2", "a2"]]
    text, history = inference(stopping_model, template, "q3", past, "be kind", generation_config=GREEDY)
    assert past == [("q1", "a1"), ["q2", "a2"]]
    assert history == [["q1", "a1"], ["q2", "a2"], ["q3", text]]
    assert inference(stopping_model, template, "q3", past, "be rude", generation_config=GREEDY)[0] != text


def test_an_observation_goes_on_in_the_same_turn(model, template):
    said = "Thought: look\nAction: look\nObservation:"
    text, history = inference(model, template, " 42 found", [["q", said]], generation_config=GREEDY)
    prompt = prompt_of(template, "q") + template._ids(said + " 42 found")
    assert text == template.tokenizer.decode(reference(model, template, prompt))
    assert history == [["q", said + " 42 found" + text]]


def test_one_answer_is_given_whatever_the_settings_ask(model, template):
    config = GenerationConfig(
        max_new_tokens=4, num_beams=2, num_return_sequences=2, return_dict_in_generate=True, output_scores=True
    )
    plain = GenerationConfig(max_new_tokens=4, num_beams=2)
    answers = [inference(model, template, "hi", generation_config=each) for each in (config, plain)]
    assert answers[0] == answers[1]


def test_generation_info_counts(stopping_model, template):
    info, streamed = {}, {}
    inference(stopping_model, template, QUESTIONS[0], generation_config=GREEDY, generation_info=info)
    list(inference_stream(stopping_model, template, QUESTIONS[0], generation_config=GREEDY, generation_info=streamed))
    prompt = prompt_of(template, QUESTIONS[0])
    assert info["num_prompt_tokens"] == len(prompt)
    assert info["num_generated_tokens"] == min(24, len(reference(stopping_model, template, prompt)) + 1)
    assert info["tokens/s"] == pytest.approx(info["num_generated_tokens"] / info["runtime"])
    same = ("num_prompt_tokens", "num_generated_tokens", "finish_reason")
    assert [streamed[key] for key in same] == [info[key] for key in same]


def test_stop_words_end_the_answer_and_are_not_shown(model, template):
    plain = inference(model, template, "hi", generation_config=GREEDY)[0]
    word = plain[len(plain) // 2 :][:4]
    given = [word]
    text, _ = inference(model, template, "hi", generation_config=GREEDY, stop_words=given)
    assert text == plain[: plain.index(word)]
    assert given == [word]
    shown = [t for t, _ in inference_stream(model, template, "hi", generation_config=GREEDY, stop_words=[word])]
    assert shown[-1] == text
    assert all(text.startswith(t) for t in shown)
    ((_, answer),) = generate_batch(model, template, [{"query": "hi"}], GREEDY, stop_words=[word])
    assert (answer.text, answer.finish_reason) == (text, "stop")
    assert answer.num_generated_tokens < 24


def test_the_first_answers_come_before_many_rows_are_read(model, template):
    read = []
    rows = (read.append(k) or {"query": "hi"} for k in range(200))
    next(generate_batch(model, template, rows, GREEDY, 2))
    assert len(read) <= 16, "what a killed run has not written is asked again"


def test_a_stop_word_ends_each_row_of_a_batch_at_its_own_place(model, template):
    rows = [{"query": query} for query in QUESTIONS]
    plain = [answer.text for _, answer in generate_batch(model, template, rows, GREEDY)]
    found = Counter(c for text in plain for c in set(text) if c.isascii() and c.isprintable())
    word, number = found.most_common(1)[0]
    assert number > 1
    stopped = [answer.text for _, answer in generate_batch(model, template, rows, GREEDY, stop_words=[word])]
    assert stopped == [text.split(word)[0] for text in plain]


def test_new_tokens_fit_the_model(template):
    model = tiny_model("gpt2", vocab_size=len(template.tokenizer), n_positions=64).eval()
    long, short = "one " * 10, "hi"
    room = 64 - len(prompt_of(template, long))
    assert 0 < room < 24
    info: dict = {}
    inference(model, template, long, generation_config=GREEDY, generation_info=info)
    assert info["num_generated_tokens"] == room
    single = [inference(model, template, q, generation_config=GREEDY)[0] for q in (long, short)]
    batch = generate_batch(model, template, [{"query": long}, {"query": short}], GREEDY)
    assert [answer.text for _, answer in batch] == single


def test_a_prompt_without_room_is_an_error_alone_and_an_empty_answer_in_a_batch(tokenizer):
    model = tiny_model("gpt2", vocab_size=len(tokenizer), n_positions=64).eval()
    template = FakeTemplate(tokenizer)
    with pytest.raises(DataError, match="leaves no room"):
        inference(model, template, "one " * 80)
    with pytest.raises(ValueError, match="leaves no room"):
        next(inference_stream(model, template, "one " * 80))
    answers = dict(generate_batch(model, template, [{"query": "one " * 80}, {"query": "hi"}], GREEDY))
    assert (answers[0].text, answers[0].finish_reason) == ("", "too_long")
    assert answers[1].finish_reason != "too_long"


def test_a_prompt_longer_than_the_template_allows(model, tokenizer):
    template = FakeTemplate(tokenizer, max_length=20)
    with pytest.raises(DataError, match="max_length=20"):
        inference(model, template, "one " * 30)
    with pytest.raises(DataError, match="max_length=20"):
        inference(model, template, "one " * 30, [["q", "Observation:"]])
    ((_, answer),) = generate_batch(model, template, [{"query": "one " * 30}], GREEDY)
    assert answer == Answer("", 0, 0, "too_long")


def test_rows_of_messages_are_answered_as_queries_are(model, template):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    ((_, answer),) = generate_batch(model, template, [{"messages": messages}], GREEDY)
    assert answer.text == inference(model, template, "hi", system="s", generation_config=GREEDY)[0]


def test_beams_do_not_stream_but_generate(model, template):
    config = GenerationConfig(max_new_tokens=6, num_beams=3, do_sample=True)
    with pytest.raises(UsageError, match="num_beams=3"):
        list(inference_stream(model, template, "hi", generation_config=config))
    assert isinstance(inference(model, template, "hi", generation_config=config)[0], str)


def test_closing_a_stream_ends_the_generation(model, template):
    before = threading.active_count()
    steps = []
    handle = model.register_forward_hook(lambda *_: steps.append(1))
    stream = inference_stream(model, template, "hi", generation_config=GenerationConfig(max_new_tokens=400))
    next(stream)
    stream.close()
    done = len(steps)
    handle.remove()
    assert done < 300
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", ["1", "0"])
def test_a_stream_runs_the_adapters_of_its_reader(template, monkeypatch, threads):
    monkeypatch.setenv("USE_UNIQUE_THREAD", threads)
    base = tiny_model(vocab_size=len(template.tokenizer), initializer_range=0.2)
    plain = inference(base, template, "hi", generation_config=GREEDY)[0]
    config = AdapterConfig(dim=64, target_modules=r".*\.mlp", adapter_length=8)
    model = Swift.prepare_model(base, {"first": config, "second": config})
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    answers = {plain}
    for names in (["first", "second"], ["second"], []):
        model.set_active_adapters(names)
        whole = inference(model, template, "hi", generation_config=GREEDY)
        assert list(inference_stream(model, template, "hi", generation_config=GREEDY))[-1] == whole
        assert model.active_adapters == set(names)
        answers.add(whole[0])
    assert whole[0] == plain
    assert len(answers) == 3


def test_an_error_while_generating_reaches_the_reader_of_the_stream(model, template, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    for served in (True, False):
        monkeypatch.setattr("swift.inference.generate.serves", lambda *_, served=served: served)
        monkeypatch.setattr(model, "forward" if served else "generate", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(inference_stream(model, template, "hi"))


def test_verbose_prints_prompt_and_answer_and_streams_when_asked(model, template, capsys):
    text, _ = inference(model, template, "hi", generation_config=GREEDY, verbose=True)
    prompt = template.tokenizer.decode(prompt_of(template, "hi"))
    assert capsys.readouterr().out == f"[PROMPT]{prompt}[OUTPUT]{text}\n"
    inference(model, template, "hi", generation_config=GREEDY, verbose=True, stream=True, output_prefix="> ")
    assert capsys.readouterr().out == f"[PROMPT]{prompt}> {text}\n"


def test_a_stream_that_nobody_sees_is_a_warning(model, template, caplog):
    with caplog.at_level("WARNING", "swift"):
        import logging

        logging.getLogger("swift").propagate = True
        inference(model, template, "hi", generation_config=GREEDY, stream=True)
        logging.getLogger("swift").propagate = False
    assert "inference_stream" in caplog.text


def test_a_model_in_training_mode_answers_without_dropout(template):
    model = tiny_model("gpt2", vocab_size=len(template.tokenizer), resid_pdrop=0.5)
    expected = inference(model.eval(), template, "hi", generation_config=GREEDY)[0]
    assert inference(model.train(), template, "hi", generation_config=GREEDY)[0] == expected


def test_generation_makes_no_warning(model, template, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inference(
            model, template, "hi", generation_config=GenerationConfig(do_sample=False, temperature=0.3, top_p=0.7)
        )
    assert capfd.readouterr().err == ""


def test_to_device_reaches_every_tensor():
    value = {"a": torch.ones(1), "b": [torch.zeros(1), ("x", 3, None)]}
    moved = to_device(value, "meta")
    assert moved["a"].device.type == moved["b"][0].device.type == "meta"
    assert moved["b"][1] == ("x", 3, None)
    assert value["a"].device.type == "cpu"


def test_an_answer_that_is_stopped_ends_with_the_token_at_work(model, template):
    stop, info, steps = threading.Event(), {}, []

    def count(*_):
        steps.append(1)
        if len(steps) == 7:
            stop.set()

    handle = model.register_forward_hook(count)
    config = GenerationConfig(max_new_tokens=200, do_sample=False)
    texts = [
        text
        for text, _ in inference_stream(
            model, template, "hi", generation_config=config, generation_info=info, stop=stop
        )
    ]
    handle.remove()
    assert len(steps) == 7 == info["num_generated_tokens"]
    assert info["finish_reason"] == "stopped"
    assert texts[-1].startswith(texts[0])


@pytest.fixture(scope="module")
def small(tokenizer):
    return tiny_model("qwen2", vocab_size=len(tokenizer), initializer_range=0.2).eval()


def test_beams_are_drawn_by_transformers_from_the_seed(small, template):
    config = GenerationConfig(max_new_tokens=6, num_beams=3, do_sample=True, top_k=0, temperature=2.0)
    said = prepare_generation_config(small, template, config)
    ids, before = torch.tensor([prompt_of(template, "hi")]), torch.random.get_rng_state()
    for seed in (1, 2):
        (own,) = inference_ids(small, template, said, [seed])
        assert torch.equal(torch.random.get_rng_state(), before)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = small.generate(ids, attention_mask=torch.ones_like(ids), generation_config=said)
        assert own == output[0, ids.shape[1] :].tolist()[: len(own)]


def inference_ids(model, template, config, seeds, adapter=None):
    prompt = prompt_of(template, "hi")
    requests = [Request(prompt, config, Reader(template, config.eos_token_id), seed, adapter) for seed in seeds]
    return [ended.ids for ended in Whole(model, 8).run(requests)]


def test_only_what_is_drawn_is_answered_alone(small, template):
    for drawn, passes in ((False, 1), (True, 3)):
        config = prepare_generation_config(small, template, GenerationConfig(max_new_tokens=2, do_sample=drawn))
        seen = Counter()
        handle = small.register_forward_hook(lambda *_, seen=seen: seen.update(["passes"]))
        inference_ids(small, template, config, [1, 2, 3])
        handle.remove()
        assert seen["passes"] == 2 * passes


def test_an_adapter_answers_with_beams(tokenizer, template):
    model = tiny_model("qwen2", vocab_size=len(tokenizer), initializer_range=0.2).eval()
    config = prepare_generation_config(model, template, GenerationConfig(max_new_tokens=4, num_beams=2))
    plain = inference_ids(model, template, config, [None])
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]), "mine").eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    assert inference_ids(tuned, template, config, [None, None], "mine") == 2 * inference_ids(
        tuned, template, config, [None]
    )
    assert (
        inference_ids(tuned, template, config, [None], BASE) == plain != inference_ids(tuned, template, config, [None])
    )

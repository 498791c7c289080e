"""Guessing ahead changes no answer: right guesses save passes, wrong ones leave nothing behind."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch

from swift.inference.batching import Batching
from swift.inference.lookup import Lookup
from swift.inference.prefixes import Prefixes
from swift.inference.whole import Whole
from tests.inference.fake import FakeTemplate
from tests.inference.test_batching import KINDS, alone, answers, make, requests_for
from tests.tiny import tiny_tokenizer

QUICK = ("gemma2", "gpt2")  # a window that slides, and places that end


@pytest.fixture(scope="module")
def template():
    return FakeTemplate(tiny_tokenizer())


def guessing(requests, most=5):
    made = []
    for request in requests:
        config = copy.deepcopy(request.config)
        config.prompt_lookup_num_tokens = most
        made.append(replace(request, config=config))
    return made


class Passes:
    """How often a model is asked, and for how many tokens of a row at most."""

    def __init__(self, model):
        self.count = self.widest = 0
        model.register_forward_pre_hook(self._seen, with_kwargs=True)

    def _seen(self, _, args, kwargs):
        self.count += 1
        self.widest = max(self.widest, kwargs["input_ids"].shape[1])


def half_right(monkeypatch, requests, expected, seed=0):
    """Guesses of the answers that will be, with a mistake somewhere."""
    draw = random.Random(seed)
    known = {tuple(request.prompt_ids): ids for request, ids in zip(requests, expected, strict=True)}

    def guess(self, ids, room):
        true = known[tuple(self.ids)][len(ids) :]
        right = draw.choice([0, 1, 2, 8])
        return [*true[:right], *(draw.randrange(400) for _ in range(draw.choice([0, 0, 2])))][: min(self.most, room)]

    monkeypatch.setattr(Lookup, "guess", guess)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_each_answer_is_that_of_generate(kind, template, monkeypatch):
    model = make(kind, template)
    requests = requests_for(model, template, 9)
    expected = [alone(model, request) for request in requests]
    for slots, prefixes in ((1, None), (3, Prefixes())):
        assert [each.ids for each in answers(Batching(model, slots, prefixes=prefixes), guessing(requests))] == expected
    half_right(monkeypatch, requests, expected)
    passes = Passes(model)
    for slots in (1, 4, 9):
        assert [each.ids for each in answers(Batching(model, slots), guessing(requests))] == expected
    assert passes.count < sum(map(len, expected)) * 1.2  # 1 + 1/4 + 1/9 of it at least without guesses


def test_so_is_one_at_the_models_last_place(template, monkeypatch):
    model = make("gpt2", template)
    (request,) = requests_for(model, template, 1)
    request = replace(request, prompt_ids=(request.prompt_ids * 40)[:500])
    request.config.max_new_tokens = 12
    expected = alone(model, request)
    half_right(monkeypatch, [request], [expected])
    assert answers(Batching(model, 1), guessing([request], 64))[0].ids == expected


def test_draws_penalties_and_probabilities_are_those_without_guesses(template, monkeypatch):
    model = make("qwen2", template)
    drawn = requests_for(model, template, 6, do_sample=True, temperature=1.2, top_k=30, repetition_penalty=1.2)
    plain = requests_for(model, template, 6)
    requests = [replace(each, seed=k, logprobs=3, presence=0.3) for k, each in enumerate(drawn)]
    requests += [replace(each, logprobs=2, prompt_ids=[*each.prompt_ids, k]) for k, each in enumerate(plain)]
    before = answers(Batching(model, 5), requests)
    half_right(monkeypatch, requests, [each.ids for each in before])
    after = answers(Batching(model, 5), guessing(requests))
    assert [each.ids for each in after] == [each.ids for each in before]
    for old, new in zip(before, after, strict=True):
        assert len(new.logprobs) == len(new.ids)
        values = [[told.logprob for told in each.logprobs] for each in (old, new)]
        torch.testing.assert_close(torch.tensor(values[0]), torch.tensor(values[1]), atol=1e-3, rtol=1e-3)


def test_a_model_that_repeats_itself_is_asked_less_often(template):
    model = make("qwen2", template)
    (request,) = requests_for(model, template, 1)
    with torch.no_grad():  # the last token says which is next: a round of 8 for ever
        model.model.layers = torch.nn.ModuleList([])
        ring = torch.eye(model.config.hidden_size)
        model.model.embed_tokens.weight.zero_()[100:108] = ring[:8]
        model.lm_head.weight.zero_()[100:108] = ring[:8].roll(1, 0)
    request = replace(request, prompt_ids=[*range(100, 108)] * 2)
    request.config.max_new_tokens = 64
    counts = {}
    for most in (None, 4, 16):
        passes = Passes(model)
        (answer,) = answers(Batching(model, 1), guessing([request], most))
        assert answer.ids == [*range(100, 108)] * 8
        counts[most] = passes.count
        assert passes.widest == 16 if most is None else passes.widest >= most
    assert counts[None] == 64
    assert counts[4] <= 15
    assert counts[16] <= 9


def test_what_follows_is_what_followed_before():
    lookup = Lookup([1, 2, 3, 4, 5, 9, 3, 4], 3)
    assert lookup.guess([], 10) == [5, 9, 3]
    assert lookup.guess([5, 9], 10) == [3, 4, 5]
    assert lookup.guess([5, 9, 7], 10) == []
    assert lookup.guess([5, 9, 7, 2], 10) == [3, 4, 5]
    assert lookup.guess([5, 9, 7, 2], 1) == [3]
    again = Lookup([1, 2, 8, 1, 2, 9, 1, 2], 2)
    assert again.guess([], 9) == [8, 1]
    assert again.guess([9], 9) == [1, 2]  # `2 9` stood once


def test_models_without_slots_answer_without_guesses(template):
    model = make("llama", template)
    requests = requests_for(model, template, 4)
    found = answers(Whole(model, 4), guessing(requests))
    assert [each.ids for each in found] == [alone(model, request) for request in requests]

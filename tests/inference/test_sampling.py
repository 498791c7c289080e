import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import (
    GenerationConfig,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swift.inference.generate import inference_stream
from swift.inference.sampling import FIRST, PLAIN, Sampler, candidates, drawn, likeliest, waits
from tests.inference.fake import FakeTemplate
from tests.tiny import tiny_model, tiny_tokenizer

WARM = GenerationConfig(do_sample=True, temperature=1.5, top_k=50, top_p=0.95, max_new_tokens=12)


def draws(config, scores, count):
    """How often each token is drawn by `count` seeds, as shares."""
    drawn = torch.tensor([Sampler(config, seed=seed).choose(scores, []) for seed in range(count)])
    return torch.bincount(drawn, minlength=len(scores)) / count


def test_tokens_are_drawn_as_often_as_their_warped_probability_says():
    scores = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -4.0])
    config = GenerationConfig(do_sample=True, temperature=1.3, top_k=5, top_p=0.9)
    expected = (scores / 1.3).softmax(0)
    kept = (expected[:5] / expected[:5].sum()).cumsum(0) - expected[:5] / expected[:5].sum() < 0.9
    expected = torch.where(torch.cat([kept, torch.tensor([False])]), expected, 0.0)
    shares = draws(config, scores, 4000)
    assert (shares - expected / expected.sum()).abs().max() < 0.03
    assert shares[expected == 0].sum() == 0


def test_no_warping_and_a_least_probability():
    scores = torch.tensor([1.0, 0.0, -3.0])
    plain = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    assert (draws(plain, scores, 3000) - scores.softmax(0)).abs().max() < 0.03
    plain.min_p = 0.5
    assert draws(plain, scores, 50).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.7}, {"top_k": 5}, {"top_k": 0, "top_p": 0.8}, {"top_k": 30, "top_p": 0.6, "min_p": 0.1},
     {"temperature": 3.0, "top_k": 0, "top_p": 0.99}, {"temperature": 3.0, "top_k": 0, "top_p": 0.95, "min_p": 0.02},
     {"top_p": 0.01}, {"top_k": 0, "min_p": 0.3}, {"top_k": 2000}],
)  # fmt: skip
def test_what_may_be_drawn_is_what_the_warpers_of_transformers_leave(settings):
    config = GenerationConfig(do_sample=True, **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, **settings})
    scores = torch.randn(3000, generator=torch.Generator().manual_seed(1)) * 3
    warped = TemperatureLogitsWarper(config.temperature)(None, scores[None])
    warped = TopKLogitsWarper(config.top_k)(None, warped) if config.top_k else warped
    warped = TopPLogitsWarper(config.top_p)(None, warped)
    warped = MinPLogitsWarper(config.min_p)(None, warped) if config.min_p else warped
    probabilities, ids = candidates(scores, config)
    found = torch.zeros(3000).scatter(0, ids, probabilities)
    assert torch.allclose(found, warped[0].softmax(-1), atol=1e-6)
    assert ((found > 0) == (warped[0] > -torch.inf)).all()
    assert (len(ids) > FIRST) == (config.temperature == 3 or config.top_k == 2000)  # what is put in order


def test_the_likeliest_is_the_first_of_the_largest():
    scores = torch.randint(0, 4, (5, 3, 40), generator=torch.Generator().manual_seed(0)).float()
    for kind in (torch.float32, torch.bfloat16):
        assert torch.equal(likeliest(scores.to(kind)), scores.argmax(-1))


def test_what_is_no_number_is_not_drawn():
    generator = torch.Generator().manual_seed(0)

    def draw(*probabilities):
        return int(drawn(torch.tensor(probabilities), waits(torch.arange(len(probabilities)), generator)))

    assert {draw(0.0, 0.5, 0.0, 0.5, 0.0) for _ in range(50)} == {1, 3}
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="no numbers"):
            draw(0.5, bad)


@pytest.mark.parametrize(
    "settings", [{"top_k": 20, "top_p": 0.7}, {"top_k": 0, "top_p": 0.9}, {"top_k": 0, "top_p": 1.0}]
)
def test_rounding_hardly_ever_changes_what_is_drawn(settings: dict):
    scores = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    rounded = (scores + 2e-3 * torch.randn(4000, generator=torch.Generator().manual_seed(1))).bfloat16().float()
    config = GenerationConfig(do_sample=True, temperature=1.0, **settings)

    def draw(values, seed):
        return Sampler(config, seed=seed).draw(values)

    assert sum(draw(scores.bfloat16().float(), seed) != draw(rounded, seed) for seed in range(200)) <= 4


def test_waits_are_exponential_and_each_tokens_own():
    ids = torch.arange(50_000)
    found = waits(ids, torch.Generator().manual_seed(3)).double()
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    assert float((found < 0.5).double().mean()) == pytest.approx(1 - math.exp(-0.5), abs=0.01)
    assert torch.equal(found[[7, 3]].float(), waits(ids[[7, 3]], torch.Generator().manual_seed(3)))
    assert not torch.equal(found.float(), waits(ids, torch.Generator().manual_seed(4)))


def test_repetition_costs():
    scores = torch.tensor([2.0, 1.9, 0.0])
    greedy = GenerationConfig(do_sample=False)
    assert Sampler(greedy).kind == PLAIN
    assert Sampler(greedy).choose(scores, [0]) == 0
    assert Sampler(greedy, presence=0.2).choose(scores, [0]) == 1
    assert Sampler(greedy, presence=0.2).choose(scores, []) == 0
    assert Sampler(greedy, frequency=0.06).choose(scores, [0]) == 0
    assert Sampler(greedy, frequency=0.06).choose(scores, [0, 0]) == 1
    assert Sampler(greedy, bias={0: -0.05}).choose(scores, []) == 0
    assert Sampler(greedy, bias={0: -0.05, 1: 0.1}).choose(scores, []) == 1
    assert Sampler(GenerationConfig(repetition_penalty=1.2), [0]).choose(scores, []) == 1
    assert Sampler(GenerationConfig(no_repeat_ngram_size=1)).choose(scores, [0]) == 1
    assert Sampler(GenerationConfig(min_new_tokens=2, eos_token_id=[0])).choose(scores, []) == 1


@pytest.mark.parametrize(
    "settings", [{"num_beams": 2}, {"typical_p": 0.5}, {"bad_words_ids": [[1]]}, {"min_length": 9}]
)
def test_what_is_left_to_generate(settings):
    assert Sampler.serves(GenerationConfig(temperature=0.5, do_sample=True, min_p=0.1, no_repeat_ngram_size=2))
    assert not Sampler.serves(GenerationConfig(**settings))


def test_an_answer_depends_on_its_seed_alone():
    template, model = FakeTemplate(tiny_tokenizer()), tiny_model(initializer_range=0.2).eval()

    def answer(seed):
        return list(inference_stream(model, template, "hi", generation_config=WARM, seed=seed))[-1][0]

    torch.manual_seed(0)
    alone = [answer(seed) for seed in range(6)]
    assert len(set(alone)) > 1
    torch.manual_seed(1)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(answer, range(6))) == alone
    assert WARM.do_sample

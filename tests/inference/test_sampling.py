from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import GenerationConfig

from swift.inference.generate import inference_stream
from swift.inference.sampling import SeededDraw, take_over
from tests.inference.fake import FakeTemplate
from tests.tiny import tiny_model, tiny_tokenizer

WARM = GenerationConfig(do_sample=True, temperature=1.5, top_k=50, top_p=0.95, max_new_tokens=12)


def draws(config, scores, count):
    """How often each token is drawn by `count` seeds, as shares."""
    ids = torch.zeros((1, 1), dtype=torch.long)
    drawn = torch.tensor([int(SeededDraw(config, seed)(ids, scores[None]).argmax()) for seed in range(count)])
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


def test_only_sampling_is_taken_over():
    assert take_over(GenerationConfig(do_sample=False), 1) == []
    config = GenerationConfig(do_sample=True, temperature=0.5)
    assert take_over(config, None) == []
    assert config.do_sample
    assert len(take_over(config, 1)) == 1
    assert not config.do_sample


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

"""Losses of heads are their formulas, written out in float64, and TRL's own value."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from swift.arguments.rlhf import RLHFArguments
from swift.commands.heads import REWARDS, kind_of
from swift.commands.task import task_of
from swift.datasets.groups import Group
from swift.heads import losses, metrics
from swift.heads.batch import collate
from swift.heads.kinds import Classifier, Embedding, Reranker, Reward
from tests.tiny import tiny_tokenizer

Seeds = st.integers(0, 2**31)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@settings(max_examples=30, deadline=None)
@given(seed=Seeds, center=st.sampled_from([0.0, 0.01, 0.5]))
def test_bradley_terry(seed: int, center: float) -> None:
    better, worse, margins = normal(seed, 5), normal(seed + 1, 5), normal(seed + 2, 5).abs()
    found = losses.bradley_terry(better, worse, margins, center)
    for k in range(5):
        a, b, m = float(better[k]), float(worse[k]), float(margins[k])
        assert float(found[k]) == pytest.approx(-math.log(sigmoid(a - b - m)) + center * (a + b) ** 2, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=Seeds)
def test_labels_and_numbers(seed: int) -> None:
    logits = normal(seed, 4, 3)
    labels = torch.tensor([0, 2, 1, 2])
    many = (normal(seed + 1, 4, 3) > 0).double()
    one, several, squared = (
        losses.single_label(logits, labels), losses.multi_label(logits, many), losses.regression(logits, many)
    )  # fmt: skip
    for k in range(4):
        x = [float(v) for v in logits[k]]
        assert float(one[k]) == pytest.approx(math.log(sum(map(math.exp, x))) - x[labels[k]], rel=1e-12)
        terms = [-math.log(sigmoid(v if t else -v)) for v, t in zip(x, many[k].tolist(), strict=True)]
        assert float(several[k]) == pytest.approx(sum(terms) / 3, rel=1e-12)
        assert float(squared[k]) == pytest.approx(
            sum((v - t) ** 2 for v, t in zip(x, many[k].tolist(), strict=True)) / 3
        )


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@settings(max_examples=30, deadline=None)
@given(seed=Seeds, margin=st.sampled_from([0.2, 0.5, 1.5]))
def test_pairs_of_vectors(seed: int, margin: float) -> None:
    one, other = normal(seed, 6, 4), normal(seed + 1, 6, 4)
    wanted = torch.tensor([0.0, 1, 0, 1, 1, 0])
    found, apart = losses.cosine_similarity(one, other, wanted), losses.contrastive(one, other, wanted, margin)
    for k in range(6):
        c, y = cosine(one[k], other[k]), float(wanted[k])
        assert float(found[k]) == pytest.approx((c - y) ** 2, rel=1e-9)
        d = 1 - c
        assert float(apart[k]) == pytest.approx(
            0.5 * (y * d**2 + (1 - y) * max(margin - d, 0) ** 2), rel=1e-9, abs=1e-12
        )


def groups_of(counts: list[int], numbers: list[list[float]]) -> dict[str, torch.Tensor]:
    rows = [Group((np.array([1, 2]),) * n, np.array(x, np.float32)) for n, x in zip(counts, numbers, strict=True)]
    return collate(rows, 0)


@settings(max_examples=30, deadline=None)
@given(seed=Seeds, temperature=st.sampled_from([0.05, 1.0]))
def test_infonce_of_ragged_rows(seed: int, temperature: float) -> None:
    """Rows have a query, one or two documents that answer it and some that do not; a repeated row is none."""
    counts, good = [3, 5, 2, 4], [1, 2, 1, 1]
    batch = groups_of(counts, [[float(n)] for n in good])
    batch["weights"][3] = 0
    vectors = normal(seed, sum(counts), 4)
    found = Embedding(temperature=temperature).losses(vectors, batch)
    starts = np.cumsum([0, *counts[:-1]])
    for row in range(3):
        query = vectors[starts[row]]
        powers = []
        for other in range(3):
            for place in range(1, counts[other]):
                if other == row and 1 < place <= good[row]:
                    continue
                powers.append(math.exp(cosine(query, vectors[starts[other] + place]) / temperature))
        own = math.exp(cosine(query, vectors[starts[row] + 1]) / temperature)
        assert float(found[row]) == pytest.approx(-math.log(own / sum(powers)), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=Seeds)
def test_rerankers(seed: int) -> None:
    counts, relevant = [3, 2, 4], [[1, 0, 0], [1, 0], [1, 0, 1, 0]]
    batch = groups_of(counts, relevant)
    scores = normal(seed, 9, 1)
    each = Reranker("pointwise").losses(scores, batch)
    flat = [x for row in relevant for x in row]
    for k, y in enumerate(flat):
        assert float(each[k]) == pytest.approx(-math.log(sigmoid(float(scores[k]) * (1 if y else -1))), rel=1e-9)
    lists = Reranker("listwise").losses(scores, batch)
    start = 0
    for row, n in enumerate(counts):
        own = [float(x) for x in scores[start : start + n, 0]]
        bad = sum(math.exp(x) for x, y in zip(own, relevant[row], strict=True) if not y)
        terms = [-math.log(math.exp(x) / (math.exp(x) + bad)) for x, y in zip(own, relevant[row], strict=True) if y]
        assert float(lists[row]) == pytest.approx(sum(terms) / len(terms), rel=1e-9)
        start += n
    batch["weights"][0] = 0
    assert Reranker("pointwise").weights(batch).tolist() == [0] * 3 + [1] * 6


def test_what_trl_has_for_the_same_batch(tmp_path: Path, tiny_dir: Path) -> None:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    draw = np.random.default_rng(0)
    rows = [[draw.integers(6, 400, size=draw.integers(3, 20)) for _ in range(2)] for _ in range(6)]
    margins = [0.5, 0.0, 1.0, 0.2, 0.0, 2.0]
    table = {
        "chosen_ids": [r[0].tolist() for r in rows], "rejected_ids": [r[1].tolist() for r in rows], "margin": margins
    }  # fmt: skip
    config = RewardConfig(
        output_dir=str(tmp_path), report_to="none", center_rewards_coefficient=0.01, use_cpu=True, bf16=False
    )
    trainer = RewardTrainer(model, args=config, train_dataset=Dataset.from_dict(table), processing_class=tokenizer)
    theirs = trainer.compute_loss(model.eval(), trainer.data_collator([*Dataset.from_dict(table)]))
    batch = collate([Group(tuple(r), np.array([m], np.float32)) for r, m in zip(rows, margins, strict=True)], 0)
    kind = Reward(0.01)
    scores = kind.scores(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]), batch)
    assert kind.losses(scores, batch).mean().item() == pytest.approx(theirs.item(), abs=1e-6)


def test_metrics_of_known_cases() -> None:
    said, right = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    assert metrics.of_labels(said, right, 2) == {"accuracy": 0.6, "f1": pytest.approx(2 / 3)}
    three = metrics.of_labels(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), 3)
    assert three["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    sets = metrics.of_sets(np.array([[1, 0], [1, 1]], bool), np.array([[1, 0], [0, 1]], bool))
    assert sets == {"accuracy": 0.5, "f1": pytest.approx(2 * 2 / (3 + 2))}
    numbers = metrics.of_numbers(np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [4.0], [8.0]]))
    assert numbers == {"mse": 7.0, "mae": pytest.approx(7 / 3), "pearson": pytest.approx(1.0)}
    axes = np.eye(3, dtype=np.float32)
    near = np.array([1, 0.2, 0], np.float32)
    rows = [(np.stack([near, axes[0]]), np.ones(1)), (np.stack([near, axes[1], axes[2]]), np.ones(1))]
    found = metrics.of_search(rows)
    assert (found["recall@1"], found["recall@5"], found["mrr"]) == (0.5, 1.0, 0.75)
    ranking = metrics.of_ranking([(np.array([[1.0], [2.0]]), np.array([1, 0])), (np.array([[-1.0]]), np.array([0]))])
    assert ranking == {"accuracy": pytest.approx(2 / 3), "recall@1": 0.0, "recall@5": 1.0, "recall@10": 1.0, "mrr": 0.5}
    assert metrics.of_pairs(np.array([[2.0, 1.0], [0.0, 1.0]])) == {"accuracy": 0.5, "margin": 0.0, "mean_reward": 1.0}
    assert metrics.of_cosines([(axes[:2], np.zeros(1)), (axes[[1, 1]], np.ones(1))]) == {"pearson": pytest.approx(1.0)}


def test_a_label_that_cannot_be_is_named() -> None:
    row = {"messages": [{"role": "user", "content": "a"}]}
    for kind, label, message in (
        (Classifier(2, "single_label_classification"), None, '"label" is missing'),
        (Classifier(2, "single_label_classification"), 2, "not one of 0 to 1"),
        (Classifier(2, "single_label_classification", ["a", "b"]), "c", "one more than --num_labels 2"),
        (Classifier(2, "single_label_classification"), [0, 1], "has 2 labels"),
        (Classifier(2, "regression"), 1.0, "has 1 numbers, not 2"),
        (Classifier(1, "regression"), "much", "not a number"),
        (Classifier(1, "regression"), float("nan"), "is nan, not a number"),
        (Classifier(2, "single_label_classification"), float("inf"), "is inf, not a number"),
        (Classifier(1, "regression"), "Infinity", "not a number"),
        (Embedding("contrastive"), 1, '"positive" is missing'),
        (Embedding(), None, '"positive" is missing'),
        (Reranker("listwise"), None, '"positive" is missing'),
        (Reward(), None, '"response" is missing'),
    ):
        with pytest.raises(ValueError, match=message):
            kind.read({**row, "label": label})
    with pytest.raises(ValueError, match="what --loss_name contrastive learns from"):
        Embedding("contrastive").read({**row, "positive": "b"})


def test_the_coefficient_of_a_reward_model_is_looked_at() -> None:
    args = RLHFArguments(rlhf_type="rm", center_rewards_coefficient=0.3)
    assert kind_of(args, []) == Reward(0.3)
    assert task_of(args) is REWARDS

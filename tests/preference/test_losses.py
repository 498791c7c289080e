"""Every loss is its formula in float64, and what TRL makes of the same batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from swift.arguments.rlhf import LOSS_TYPES, RLHFArguments
from swift.preference.losses import PAIR_LOSSES, SINGLE_LOSSES, Pairs, Settings, needs_reference, settings_of

P, T = 6, 9
BETA, EPSILON, GAMMA, TAU = 0.3, 0.1, 0.7, 0.05
SMOOTHED = {"exo_pair", "robust", "aot", "aot_unpaired", "aot_pair"}
"""Losses whose smoothing TRL has too; that of the others it has no more."""


@pytest.fixture(scope="module")
def said() -> dict[str, Tensor]:
    """Log-probabilities of tokens, of policy and reference, with a mask of the answers."""
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, T, (2 * P,), generator=draw)
    mask = (torch.arange(T) >= T - lengths[:, None]).double()
    policy = -torch.rand(2 * P, T, generator=draw, dtype=torch.float64) * 3 * mask
    known = policy + torch.randn(2 * P, T, generator=draw, dtype=torch.float64) * mask
    return {"policy": policy, "known": known, "mask": mask}


@pytest.fixture(scope="module")
def pairs(said: dict[str, Tensor]) -> Pairs:
    sums = [said[name].sum(1).chunk(2) for name in ("policy", "mask", "known")]
    return Pairs(*sums[0], *sums[1], *sums[2])


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else x


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def smooth(x: float, epsilon: float) -> float:
    return -(1 - epsilon) * log_sigmoid(x) - epsilon * log_sigmoid(-x)


Formula = Callable[[float, float, float, float, int, int], float]
"""Of one pair: log-probabilities of chosen and rejected, of the reference, and tokens."""
DPO: dict[str, Formula] = {
    "sigmoid": lambda c, r, kc, kr, n, m: smooth(BETA * ((c - r) - (kc - kr)), EPSILON),
    "hinge": lambda c, r, kc, kr, n, m: max(0.0, 1 - BETA * ((c - r) - (kc - kr))),
    "ipo": lambda c, r, kc, kr, n, m: ((c - kc) / n - (r - kr) / m - 0.5 / BETA) ** 2,
    "robust": lambda c, r, kc, kr, n, m: (
        (-(1 - EPSILON) * log_sigmoid(BETA * (c - r - kc + kr)) + EPSILON * log_sigmoid(-BETA * (c - r - kc + kr)))
        / (1 - 2 * EPSILON)
    ),
    "exo_pair": lambda c, r, kc, kr, n, m: (
        sig(BETA * (c - r - kc + kr)) * (log_sigmoid(BETA * (c - r - kc + kr)) - math.log(1 - EPSILON))
        + sig(-BETA * (c - r - kc + kr)) * (log_sigmoid(-BETA * (c - r - kc + kr)) - math.log(EPSILON))
    ),
    "nca_pair": lambda c, r, kc, kr, n, m: (
        -log_sigmoid(BETA * (c - kc)) - 0.5 * log_sigmoid(-BETA * (c - kc)) - 0.5 * log_sigmoid(-BETA * (r - kr))
    ),
    "bco_pair": lambda c, r, kc, kr, n, m: -log_sigmoid(BETA * (c - kc)) - log_sigmoid(-BETA * (r - kr)),
    "sppo_hard": lambda c, r, kc, kr, n, m: (c - kc - 0.5 / BETA) ** 2 + (r - kr + 0.5 / BETA) ** 2,
    "apo_zero": lambda c, r, kc, kr, n, m: (1 - sig(BETA * (c - kc))) + sig(BETA * (r - kr)),
    "apo_down": lambda c, r, kc, kr, n, m: sig(BETA * (c - kc)) + 1 - sig(BETA * (c - r - kc + kr)),
    "discopop": lambda c, r, kc, kr, n, m: (
        -log_sigmoid(BETA * (c - r - kc + kr)) * (1 - sig(BETA * (c - r - kc + kr) / TAU))
        + math.exp(-BETA * (c - r - kc + kr)) * sig(BETA * (c - r - kc + kr) / TAU)
    ),
}
OTHERS: dict[tuple[str, str], Formula] = {
    ("orpo", "orpo"): lambda c, r, kc, kr, n, m: (
        -BETA
        * log_sigmoid(
            math.log(math.exp(c / n) / (1 - math.exp(c / n))) - math.log(math.exp(r / m) / (1 - math.exp(r / m)))
        )
    ),
    ("simpo", "simpo"): lambda c, r, kc, kr, n, m: smooth(BETA * (c / n - r / m) - GAMMA, EPSILON),
    ("cpo", "simpo"): lambda c, r, kc, kr, n, m: smooth(BETA * (c / n - r / m) - GAMMA, EPSILON),
    ("cpo", "sigmoid"): lambda c, r, kc, kr, n, m: smooth(BETA * (c - r), EPSILON),
    ("cpo", "hinge"): lambda c, r, kc, kr, n, m: max(0.0, 1 - BETA * (c - r)),
    ("cpo", "ipo"): lambda c, r, kc, kr, n, m: (c / n - r / m - 0.5 / BETA) ** 2,
}
SETTINGS = Settings(BETA, EPSILON, GAMMA, TAU, 1.5, 0.4)


def columns(pairs: Pairs) -> list[tuple[Any, ...]]:
    assert pairs.ref_chosen_P is not None
    assert pairs.ref_rejected_P is not None
    names = (
        pairs.chosen_P, pairs.rejected_P, pairs.ref_chosen_P, pairs.ref_rejected_P, pairs.chosen_tokens_P,
        pairs.rejected_tokens_P,
    )  # fmt: skip
    return list(zip(*(values.tolist() for values in names), strict=True))


@pytest.mark.parametrize(("method", "name"), [*(("dpo", name) for name in DPO), *OTHERS])
def test_a_loss_of_one_pair_is_its_formula(method: str, name: str, pairs: Pairs) -> None:
    formula = DPO[name] if method == "dpo" else OTHERS[method, name]
    found = PAIR_LOSSES[method][name].loss(pairs, SETTINGS)
    torch.testing.assert_close(
        found, torch.tensor([formula(*row) for row in columns(pairs)], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_a_loss_of_a_batch_is_its_formula(pairs: Pairs) -> None:
    rows = columns(pairs)
    margins, known = sorted(c - r for c, r, *_ in rows), sorted(kc - kr for _, _, kc, kr, *_ in rows)
    aot = [smooth(BETA * (a - b), EPSILON) for a, b in zip(margins, known, strict=True)]
    chosen, rejected = sorted(c - kc for c, _, kc, *_ in rows), sorted(r - kr for _, r, _, kr, *_ in rows)
    unpaired = [smooth(BETA * (a - b), EPSILON) for a, b in zip(chosen, rejected, strict=True)]
    base_c, base_r = (max(0.0, sum(values) / P) for values in (chosen, rejected))
    kto = [((1 - sig(BETA * (c - kc - base_r))) + (1 - sig(BETA * (base_c - r + kr)))) / 2 for c, r, kc, kr, *_ in rows]
    for name, expected in (("aot", aot), ("aot_unpaired", unpaired), ("aot_pair", unpaired), ("kto_pair", kto)):
        found = PAIR_LOSSES["dpo"][name].loss(pairs, SETTINGS)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_pair_of_kto_learns_nothing_through_others(pairs: Pairs) -> None:
    for name in ("chosen_P", "rejected_P"):
        logps_P = getattr(pairs, name).clone().requires_grad_()
        losses_P = PAIR_LOSSES["dpo"]["kto_pair"].loss(replace(pairs, **{name: logps_P}), SETTINGS)
        for k in range(P):
            (gradient_P,) = torch.autograd.grad(losses_P[k], logps_P, retain_graph=True)
            assert gradient_P.nonzero().flatten().tolist() == [k]


def test_single_answers_are_their_formula() -> None:
    draw = torch.Generator().manual_seed(1)
    ratios, good = torch.randn(8, generator=draw).double() * 3, torch.arange(8) % 3 > 0
    kl = torch.tensor(0.4, dtype=torch.float64)
    expected = [
        1.5 * (1 - sig(BETA * (x - 0.4))) if on else 0.4 * (1 - sig(BETA * (0.4 - x)))
        for x, on in zip(ratios.tolist(), good.tolist(), strict=True)
    ]
    found = SINGLE_LOSSES["kto"](ratios, good, kl, SETTINGS)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    expected = [
        1.5 * (1 - sig(BETA * x)) if on else 0.4 * sig(BETA * x) for x, on in zip(ratios.tolist(), good, strict=True)
    ]
    torch.testing.assert_close(
        SINGLE_LOSSES["apo_zero_unpaired"](ratios, good, kl, SETTINGS), torch.tensor(expected, dtype=torch.float64)
    )


def test_orpo_is_finite_at_both_ends() -> None:
    sure, never = torch.tensor([0.0, -1e-9, -800.0]), torch.tensor([-900.0, 0.0, -1e-30])
    for first, second in ((sure, never), (never, sure)):
        first = first.clone().requires_grad_()
        pairs = Pairs(first, second, torch.ones(3), torch.ones(3))
        loss = PAIR_LOSSES["orpo"]["orpo"].loss(pairs, SETTINGS)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert first.grad is not None
        assert first.grad.isfinite().all()


def as_trl(said: dict[str, Tensor], name: str, epsilon: float) -> float:
    """What TRL's trainer computes when its model says these log-probabilities."""
    trl = pytest.importorskip("trl")
    policy, known, mask = said["policy"].float(), said["known"].float(), said["mask"]
    whole = torch.cat([torch.zeros(2 * P, 1), mask], 1)
    out = SimpleNamespace(
        log_probs=policy, entropy=torch.zeros_like(policy), mean_logits=torch.zeros_like(policy), is_top1=mask.bool()
    )
    chosen, rejected = known.sum(1).chunk(2)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[name], loss_weights=[1.0], beta=BETA,
        label_smoothing=epsilon, args=SimpleNamespace(discopop_tau=TAU), use_weighting=False, _total_train_tokens=0,
        _tp_size=1, _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        "input_ids": torch.ones(2 * P, T + 1, dtype=torch.long), "attention_mask": torch.ones(2 * P, T + 1),
        "completion_mask": whole, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    return float(trl.DPOTrainer._compute_loss(trainer, lambda **_: out, inputs, False))


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES["dpo"] if name not in ("kto_pair", "aot_pair")])
def test_dpo_is_as_in_trl(name: str, said: dict[str, Tensor], pairs: Pairs) -> None:
    epsilon = EPSILON if name in SMOOTHED else 0.0
    ours = PAIR_LOSSES["dpo"][name].loss(pairs, Settings(BETA, epsilon, GAMMA, TAU)).mean()
    assert float(ours) == pytest.approx(as_trl(said, name, epsilon), rel=1e-5)


def test_orpo_and_cpo_are_as_in_trl(pairs: Pairs) -> None:
    pytest.importorskip("trl")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    trainer: Any = SimpleNamespace(
        beta=BETA, accelerator=SimpleNamespace(device="cpu"), alpha=0.0, simpo_gamma=GAMMA, label_smoothing=EPSILON
    )
    theirs = ORPOTrainer.odds_ratio_loss(trainer, *pairs.means)[0]
    ours = PAIR_LOSSES["orpo"]["orpo"].loss(pairs, SETTINGS)
    torch.testing.assert_close(ours, -theirs.double(), rtol=1e-5, atol=1e-7)
    for name, row in PAIR_LOSSES["cpo"].items():
        trainer.loss_type = name
        said = pairs.means if row.means else (pairs.chosen_P, pairs.rejected_P)
        torch.testing.assert_close(row.loss(pairs, SETTINGS), CPOTrainer.cpo_loss(trainer, *said)[0])


@pytest.mark.parametrize("name", SINGLE_LOSSES)
def test_kto_is_as_in_trl(name: str, said: dict[str, Tensor]) -> None:
    trl = pytest.importorskip("trl")
    policy, known, mask = said["policy"].float(), said["known"].float(), said["mask"]
    out = SimpleNamespace(log_probs=policy, entropy=torch.zeros_like(policy), mean_logits=torch.zeros_like(policy))
    good, kl = torch.arange(2 * P) % 3 > 0, torch.linspace(-1, 2, 2 * P)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, precompute_ref_logps=True,
        calculate_KL=name == "kto", loss_type=name, beta=BETA, desirable_weight=1.5, undesirable_weight=0.4,
        _total_train_tokens=0, _tp_size=1, _metrics={"train": defaultdict(list)}, _compute_kl_logps=lambda *_: kl,
    )  # fmt: skip
    ids = torch.ones(2 * P, T + 1, dtype=torch.long)
    inputs = {
        "input_ids": ids, "attention_mask": ids, "completion_mask": torch.cat([torch.zeros(2 * P, 1), mask], 1),
        "label": good, "ref_logps": known.sum(1), "ref_KL_logps": torch.zeros(2 * P),
    }  # fmt: skip
    theirs = trl.KTOTrainer._compute_loss(trainer, lambda **_: out, inputs, False)
    ours = SINGLE_LOSSES[name](policy.sum(1) - known.sum(1), good, kl.mean().clamp(min=0), SETTINGS).mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_the_tables_name_the_same_losses() -> None:
    for method, names in LOSS_TYPES.items():
        assert names == tuple(SINGLE_LOSSES if method == "kto" else PAIR_LOSSES[method])


def test_what_options_come_to() -> None:
    def of(**said: Any) -> Settings:
        return settings_of(RLHFArguments(**{"beta": 0.1, **said}))

    assert (of(rpo_alpha=0.5).share, of(rpo_alpha=0.5).nll) == (1, 0.5)
    assert (of(sft_beta=0.25).share, of(sft_beta=0.25).nll) == (0.75, 0.25)
    assert of(rlhf_type="orpo").nll == 1
    assert of(rlhf_type="cpo", cpo_alpha=0.3).nll == 0.3
    assert of(rlhf_type="kto", desirable_weight=2.0).desirable == 2
    assert needs_reference(RLHFArguments(rlhf_type="dpo", loss_type="ipo"))
    assert not needs_reference(RLHFArguments(rlhf_type="cpo", loss_type="ipo"))

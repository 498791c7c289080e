"""The losses of preference training, as rows of a table.

Letters in names: P pairs, N single answers. Log-probabilities are sums over the tokens of an answer; a method of means
divides them by their number first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.arguments.rlhf import RLHFArguments


@dataclass(frozen=True)
class Settings:
    """The numbers of a loss.

    Attributes:
        beta: how much a log-probability counts.
        smoothing: the share of pairs that are taken to be the wrong way round.
        gamma: the margin of SimPO.
        tau: the temperature of DiscoPOP's mixture.
        desirable: the weight of good answers in KTO.
        undesirable: that of bad ones.
        share: the weight of the preference in the whole loss.
        nll: the weight in it of the chosen answers' cross-entropy, over their tokens.
    """

    beta: float = 0.1
    smoothing: float = 0.0
    gamma: float = 1.0
    tau: float = 0.05
    desirable: float = 1.0
    undesirable: float = 1.0
    share: float = 1.0
    nll: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """What a model says of pairs, and its reference, which some losses do not need.

    Shapes: log-probabilities of answers, and their numbers of tokens, all P.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor
    ref_chosen_P: Tensor | None = None
    ref_rejected_P: Tensor | None = None

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """How much likelier than to the reference the chosen and the rejected answers are."""
        assert self.ref_chosen_P is not None
        assert self.ref_rejected_P is not None
        return self.chosen_P - self.ref_chosen_P, self.rejected_P - self.ref_rejected_P

    @property
    def delta_P(self) -> Tensor:
        """The difference of the two."""
        chosen_P, rejected_P = self.ratios
        return chosen_P - rejected_P

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a token, on the average of an answer."""
        return self.chosen_P / self.chosen_tokens_P.clamp(min=1), self.rejected_P / self.rejected_tokens_P.clamp(min=1)


PairLoss = Callable[[Pairs, Settings], Tensor]
"""A loss: pairs -> losses_P."""


@dataclass(frozen=True)
class PairRow:
    """A loss of pairs.

    Attributes:
        loss: what it is.
        reference: whether it needs one.
        means: whether rewards are of the mean log-probability of a token.
        couples: whether it compares pairs of a batch with each other, so that how a step is cut into batches counts.
    """

    loss: PairLoss
    reference: bool = True
    means: bool = False
    couples: bool = False


def _smoothed(x_P: Tensor, epsilon: float) -> Tensor:
    """-log sigmoid(x), of which a share is taken with the other sign."""
    return -F.logsigmoid(x_P) * (1 - epsilon) - F.logsigmoid(-x_P) * epsilon


def sigmoid(pairs: Pairs, s: Settings) -> Tensor:
    """DPO's own, with the label smoothing of conservative DPO.

    Paper: Direct Preference Optimization, https://arxiv.org/abs/2305.18290, equation 7.
    """
    return _smoothed(s.beta * pairs.delta_P, s.smoothing)


def hinge(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: Statistical Rejection Sampling Improves Preference Optimization, https://arxiv.org/abs/2309.06657."""
    return torch.relu(1 - s.beta * pairs.delta_P)


def ipo(pairs: Pairs, s: Settings) -> Tensor:
    """The squared distance to 1 / (2 beta), of log-probabilities that are means over tokens.

    Paper: A General Theoretical Paradigm to Understand Learning from Human Preferences,
    https://arxiv.org/abs/2310.12036, equation 17.
    """
    chosen_P, rejected_P = pairs.ratios
    delta_P = chosen_P / pairs.chosen_tokens_P.clamp(min=1) - rejected_P / pairs.rejected_tokens_P.clamp(min=1)
    return (delta_P - 1 / (2 * s.beta)) ** 2


def robust(pairs: Pairs, s: Settings) -> Tensor:
    """Unbiased where that share of pairs is the wrong way round.

    Paper: Provably Robust DPO, https://arxiv.org/abs/2403.00409.
    """
    x_P = s.beta * pairs.delta_P
    return (-F.logsigmoid(x_P) * (1 - s.smoothing) + F.logsigmoid(-x_P) * s.smoothing) / (1 - 2 * s.smoothing)


def exo_pair(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: Towards Efficient Exact Optimization of Language Model Alignment, https://arxiv.org/abs/2402.00856."""
    x_P = s.beta * pairs.delta_P
    wins_P = torch.sigmoid(x_P) * (F.logsigmoid(x_P) - math.log(1 - s.smoothing))
    return wins_P + torch.sigmoid(-x_P) * (F.logsigmoid(-x_P) - math.log(s.smoothing))


def nca_pair(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: Noise Contrastive Alignment of Language Models, https://arxiv.org/abs/2402.05369."""
    chosen_P, rejected_P = (s.beta * ratio_P for ratio_P in pairs.ratios)
    return -F.logsigmoid(chosen_P) - 0.5 * F.logsigmoid(-chosen_P) - 0.5 * F.logsigmoid(-rejected_P)


def bco_pair(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: Binary Classifier Optimization, https://arxiv.org/abs/2404.04656, without its shift of rewards."""
    chosen_P, rejected_P = (s.beta * ratio_P for ratio_P in pairs.ratios)
    return -F.logsigmoid(chosen_P) - F.logsigmoid(-rejected_P)


def sppo_hard(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: Self-Play Preference Optimization, https://arxiv.org/abs/2405.00675, equation 4.7 with certain wins."""
    chosen_P, rejected_P = pairs.ratios
    return (chosen_P - 0.5 / s.beta) ** 2 + (rejected_P + 0.5 / s.beta) ** 2


def aot(pairs: Pairs, s: Settings) -> Tensor:
    """The distribution of margins over the batch lies above the reference's.

    Paper: Distributional Preference Alignment via Optimal Transport, https://arxiv.org/abs/2406.05882.
    """
    assert pairs.ref_chosen_P is not None
    assert pairs.ref_rejected_P is not None
    margins_P, known_P = pairs.chosen_P - pairs.rejected_P, pairs.ref_chosen_P - pairs.ref_rejected_P
    return _smoothed(s.beta * (margins_P.sort().values - known_P.sort().values), s.smoothing)


def aot_unpaired(pairs: Pairs, s: Settings) -> Tensor:
    """The distribution of the chosen's ratios over the batch lies above the rejected's. Paper: as `aot`."""
    chosen_P, rejected_P = pairs.ratios
    return _smoothed(s.beta * (chosen_P.sort().values - rejected_P.sort().values), s.smoothing)


def apo_zero(pairs: Pairs, s: Settings) -> Tensor:
    """For chosen answers that are better than the model's own.

    Paper: Anchored Preference Optimization, https://arxiv.org/abs/2408.06266, equation 7.
    """
    chosen_P, rejected_P = pairs.ratios
    return torch.sigmoid(-s.beta * chosen_P) + torch.sigmoid(s.beta * rejected_P)


def apo_down(pairs: Pairs, s: Settings) -> Tensor:
    """For chosen answers that are worse than the model's own. Paper: as `apo_zero`, equation 8."""
    chosen_P, _ = pairs.ratios
    return torch.sigmoid(s.beta * chosen_P) + torch.sigmoid(-s.beta * pairs.delta_P)


def discopop(pairs: Pairs, s: Settings) -> Tensor:
    """The log-ratio modulated loss.

    Paper: Discovering Preference Optimization Algorithms with and for Large Language Models,
    https://arxiv.org/abs/2406.08414, equation 5.
    """
    x_P = s.beta * pairs.delta_P
    share_P = torch.sigmoid(x_P / s.tau)
    return -F.logsigmoid(x_P) * (1 - share_P) + torch.exp(-x_P) * share_P


def kto_pair(pairs: Pairs, s: Settings) -> Tensor:
    """KTO on pairs: each half of a batch has the mean of the other, through which nothing is learnt, as its baseline.

    Paper: KTO, https://arxiv.org/abs/2402.01306, equation 7.
    """
    chosen_P, rejected_P = pairs.ratios
    of_chosen, of_rejected = (ratio_P.detach().mean().clamp(min=0) for ratio_P in (chosen_P, rejected_P))
    good_P = torch.sigmoid(-s.beta * (chosen_P - of_rejected))
    return (good_P + torch.sigmoid(-s.beta * (of_chosen - rejected_P))) / 2


def odds_ratio(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: ORPO, https://arxiv.org/abs/2403.07691, equations 4 to 7."""
    chosen_P, rejected_P = pairs.means
    odds_P = (chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P))
    return -s.beta * F.logsigmoid(odds_P)


def _log1mexp(x_P: Tensor) -> Tensor:
    """log(1 - exp(x)) of x < 0, exact at both ends; a certain answer counts as one that is almost so."""
    x_P = x_P.clamp(max=-torch.finfo(x_P.dtype).eps)
    near_P = x_P > -math.log(2)
    safe_P = torch.where(near_P, x_P.new_tensor(-1.0), x_P)
    return torch.where(near_P, torch.log(-torch.expm1(x_P)), torch.log1p(-torch.exp(safe_P)))


def simpo(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: SimPO, https://arxiv.org/abs/2405.14734, equation 6."""
    chosen_P, rejected_P = pairs.means
    return _smoothed(s.beta * (chosen_P - rejected_P) - s.gamma, s.smoothing)


def cpo_sigmoid(pairs: Pairs, s: Settings) -> Tensor:
    """Paper: Contrastive Preference Optimization, https://arxiv.org/abs/2401.08417, equation 3."""
    return _smoothed(s.beta * (pairs.chosen_P - pairs.rejected_P), s.smoothing)


def cpo_hinge(pairs: Pairs, s: Settings) -> Tensor:
    """`hinge` without a reference."""
    return torch.relu(1 - s.beta * (pairs.chosen_P - pairs.rejected_P))


def cpo_ipo(pairs: Pairs, s: Settings) -> Tensor:
    """`ipo` without a reference."""
    chosen_P, rejected_P = pairs.means
    return (chosen_P - rejected_P - 1 / (2 * s.beta)) ** 2


PAIR_LOSSES: dict[str, dict[str, PairRow]] = {
    "dpo": {
        "sigmoid": PairRow(sigmoid),
        "hinge": PairRow(hinge),
        "ipo": PairRow(ipo),
        "robust": PairRow(robust),
        "exo_pair": PairRow(exo_pair),
        "nca_pair": PairRow(nca_pair),
        "bco_pair": PairRow(bco_pair),
        "sppo_hard": PairRow(sppo_hard),
        "aot": PairRow(aot, couples=True),
        "aot_unpaired": PairRow(aot_unpaired, couples=True),
        "aot_pair": PairRow(aot_unpaired, couples=True),  # as it was called before
        "apo_zero": PairRow(apo_zero),
        "apo_down": PairRow(apo_down),
        "discopop": PairRow(discopop),
        "kto_pair": PairRow(kto_pair, couples=True),
    },
    "orpo": {"orpo": PairRow(odds_ratio, reference=False, means=True)},
    "simpo": {"simpo": PairRow(simpo, reference=False, means=True)},
    "cpo": {
        "sigmoid": PairRow(cpo_sigmoid, reference=False),
        "hinge": PairRow(cpo_hinge, reference=False),
        "ipo": PairRow(cpo_ipo, reference=False, means=True),
        "simpo": PairRow(simpo, reference=False, means=True),
    },
}
"""Method -> name -> loss; that of KTO, which has no pairs, is `kto`."""


def kto(ratios_N: Tensor, good_N: Tensor, kl: Tensor, s: Settings) -> Tensor:
    """KTO of single answers.

    Shapes: ratios_N of log-probabilities to the reference's; good_N says which answers are good; kl is a scalar, the
    divergence from the reference, through which nothing is learnt.

    Paper: KTO, https://arxiv.org/abs/2402.01306, equation 7.
    """
    x_N = s.beta * torch.where(good_N, ratios_N - kl, kl - ratios_N)
    return torch.sigmoid(-x_N) * _weights(good_N, s, ratios_N)


def apo_zero_unpaired(ratios_N: Tensor, good_N: Tensor, kl: Tensor, s: Settings) -> Tensor:
    """`apo_zero` of single answers."""
    return torch.sigmoid(s.beta * torch.where(good_N, -ratios_N, ratios_N)) * _weights(good_N, s, ratios_N)


def _weights(good_N: Tensor, s: Settings, like: Tensor) -> Tensor:
    return torch.where(good_N, like.new_tensor(s.desirable), like.new_tensor(s.undesirable))


SINGLE_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, Settings], Tensor]] = {
    "kto": kto,
    "apo_zero_unpaired": apo_zero_unpaired,
}
"""Name -> loss of single answers."""


def settings_of(args: RLHFArguments) -> Settings:
    """The numbers of decided options."""
    nll, share = 0.0, 1.0
    if args.rlhf_type == "dpo":
        nll = args.rpo_alpha or 0.0
        if args.sft_beta is not None:
            nll, share = args.sft_beta, 1 - args.sft_beta
    elif args.rlhf_type == "orpo":
        nll = 1.0
    elif args.rlhf_type in ("cpo", "simpo"):
        nll = args.cpo_alpha or 0.0
    assert args.beta is not None
    return Settings(
        beta=args.beta,
        smoothing=args.label_smoothing,
        gamma=args.simpo_gamma,
        tau=args.discopop_tau,
        desirable=args.desirable_weight,
        undesirable=args.undesirable_weight,
        share=share,
        nll=nll,
    )


def needs_reference(args: RLHFArguments) -> bool:
    """Whether the loss of decided options looks at a reference."""
    return args.rlhf_type == "kto" or PAIR_LOSSES[args.rlhf_type][str(args.loss_type)].reference

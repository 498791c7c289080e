"""What each method does to the weight that it was trained for, by rows of that weight, in float32.

Letters in names: I and O features in and out, R the rank, N the rows of a block, C its columns, E experts. A weight is
(O, I); GPT-2's layers and embeddings keep theirs the other way round, which is said by `turned`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from swift.merging.tensors import Stored
from swift.tuners.starts import start_of


class Update:
    """A change of one tensor of the base.

    Attributes:
        looks: it has to see every block before it changes the first.
        needs_all: it cannot work on less than all rows.
    """

    looks = False
    needs_all = False

    def look(self, rows_NC: Tensor, start: int) -> None:
        """See a block as it is in the base, from row `start` on; `rows_NC` is not to be changed."""

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """The block as it is after the change; `rows_NC` may be used up."""
        raise NotImplementedError


class LowRank(Update):
    """W + s B A: LoRA, rsLoRA (another s), AdaLoRA (A is E A), VeRA (scaled projections), merged chunks.

    Args:
        first_RI: A.
        second_OR: B.
        scale: s.
        turned: the weight is (I, O).
    """

    def __init__(self, first_RI: Tensor, second_OR: Tensor, scale: float, turned: bool = False) -> None:
        self.left, self.right = (first_RI.T, second_OR.T) if turned else (second_OR, first_RI)
        self.scale, self.turned = scale, turned

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        return rows_NC.addmm_(self.left[start : start + len(rows_NC)], self.right, alpha=self.scale)


class Dora(LowRank):
    """m (W + s B A) / |W + s B A|, the norm of each output's weights.

    Args:
        first_RI: A.
        second_OR: B.
        scale: s.
        magnitude_O: m.
        turned: the weight is (I, O).
    """

    def __init__(
        self, first_RI: Tensor, second_OR: Tensor, scale: float, magnitude_O: Tensor, turned: bool = False
    ) -> None:
        super().__init__(first_RI, second_OR, scale, turned)
        self.magnitude_O, self.looks = magnitude_O.reshape(-1), turned
        self.squares_O = torch.zeros_like(self.magnitude_O, dtype=torch.float64)

    def look(self, rows_NC: Tensor, start: int) -> None:
        """See `Update.look`."""
        self.squares_O += super().apply(rows_NC.clone(), start).double().square().sum(0)

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        rows_NC = super().apply(rows_NC, start)
        if self.turned:
            return rows_NC.mul_(self.magnitude_O / self.squares_O.sqrt().float())
        factor_N = self.magnitude_O[start : start + len(rows_NC)] / torch.linalg.norm(rows_NC, dim=1)
        return rows_NC.mul_(factor_N[:, None])


class FromStart(Update):
    """W - s B0 A0 + s B A: PiSSA and OLoRA as PEFT saves them, whose start is a part of the original weight.

    Args:
        first_RI: A.
        second_OR: B.
        scale: s.
        start: how A0 and B0 come from W, see `swift.tuners.starts`.
        turned: the weight is (I, O).
    """

    needs_all = True

    def __init__(self, first_RI: Tensor, second_OR: Tensor, scale: float, start: str, turned: bool) -> None:
        self.first_RI, self.second_OR, self.scale, self.start, self.turned = first_RI, second_OR, scale, start, turned

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        weight_OI = rows_NC.T if self.turned else rows_NC
        first_RI, second_OR = start_of(weight_OI, len(self.first_RI), self.scale, self.start)
        weight_OI.addmm_(second_OR, first_RI, alpha=-self.scale).addmm_(self.second_OR, self.first_RI, alpha=self.scale)
        return rows_NC


class Experts(Update):
    """LoRA on the experts of a layer, which are one tensor (E, O, I), or (E, I, O).

    Args:
        first_ERI: A of each expert.
        second_EOR: B of each expert.
        scale: s.
        turned: the tensor is (E, I, O).
    """

    def __init__(self, first_ERI: Tensor, second_EOR: Tensor, scale: float, turned: bool) -> None:
        self.first_ERI, self.second_EOR, self.scale, self.turned = first_ERI, second_EOR, scale, turned

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`; the rows are experts."""
        for place, weight in enumerate(rows_NC):
            second_OR, first_RI = self.second_EOR[start + place], self.first_ERI[start + place]
            left, right = (first_RI.T, second_OR.T) if self.turned else (second_OR, first_RI)
            weight.addmm_(left, right, alpha=self.scale)
        return rows_NC


class Hadamard(Update):
    """W + s (A1 B1) * (A2 B2): LoHa. Paper: https://arxiv.org/abs/2108.06098, proposition 1."""

    def __init__(self, factors: Sequence[Tensor], scale: float) -> None:
        self.factors, self.scale = factors, scale

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        first_OR, first_RI, second_OR, second_RI = self.factors
        part = slice(start, start + len(rows_NC))
        product_NC = (first_OR[part] @ first_RI).mul_(second_OR[part] @ second_RI)
        return rows_NC.add_(product_NC, alpha=self.scale)


class Kronecker(Update):
    """W + s (W1 kron W2): LoKr. Paper: https://arxiv.org/abs/2309.14859, section 3."""

    def __init__(self, first: Tensor, second: Tensor, scale: float) -> None:
        self.first, self.second, self.scale = first, second, scale

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        row_N = torch.arange(start, start + len(rows_NC))
        first, second = self.first[row_N // len(self.second)], self.second[row_N % len(self.second)]
        product_NC = (first[:, :, None] * second[:, None, :]).reshape(len(rows_NC), -1)
        return rows_NC.add_(product_NC, alpha=self.scale)


class Scaled(Update):
    """W times a number for each output or each input: IA3, for weights and for the biases of outputs.

    Args:
        factors: (O, 1) or (1, I), or the other way round as the weight is; (O,) for a bias.
    """

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        by_row = len(self.factors) > 1 or self.factors.ndim == 1
        return rows_NC.mul_(self.factors[start : start + len(rows_NC)] if by_row else self.factors)


class Fourier(Update):
    """W + s times the inverse Fourier transform of a few coefficients. Paper: https://arxiv.org/abs/2405.03003, eq. 4.

    Args:
        spectrum: the coefficients.
        seed: of where they are.
        scale: s.
    """

    needs_all = True

    def __init__(self, spectrum: Tensor, seed: int, scale: float) -> None:
        self.spectrum, self.seed, self.scale = spectrum, seed, scale

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        places = torch.randperm(rows_NC.numel(), generator=torch.Generator().manual_seed(self.seed))
        dense_OI = torch.zeros_like(rows_NC)
        dense_OI.view(-1)[places[: len(self.spectrum)]] = self.spectrum
        return rows_NC.add_(torch.fft.ifft2(dense_OI).real, alpha=self.scale)


class Turned(Update):
    """W times a rotation of its inputs, block by block of them, and a number for each output: OFT and BOFT.

    Args:
        blocks: the rotations (D, H, H), D H = I.
        scale_O: of each output; None is 1.
    """

    def __init__(self, blocks: Tensor, scale_O: Tensor | None = None) -> None:
        self.blocks, self.scale_O = blocks, scale_O

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        split = rows_NC.view(len(rows_NC), len(self.blocks), -1)
        rows_NC = torch.einsum("ndk,dhk->ndh", split, self.blocks).reshape(rows_NC.shape)
        if self.scale_O is not None:
            rows_NC *= self.scale_O.reshape(-1, 1)[start : start + len(rows_NC)]
        return rows_NC


class Added(Update):
    """A vector and what is added to it: the bias of LoRA's B."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        return rows_NC.add_(self.values[start : start + len(rows_NC)])


class Whole(Update):
    """Another tensor in the place of the base's, for further changes.

    Args:
        stored: the tensor.
    """

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        return self.stored.rows(start, start + len(rows_NC)).float()


class Rows(Update):
    """A table in which some rows are others: tokens that were trained alone.

    Args:
        rows: which.
        values: what they are now.
    """

    def __init__(self, rows: Sequence[int], values: Tensor) -> None:
        self.values = dict(zip(rows, values, strict=True))

    def apply(self, rows_NC: Tensor, start: int) -> Tensor:
        """See `Update.apply`."""
        for row, value in self.values.items():
            if start <= row < start + len(rows_NC):
                rows_NC[row - start] = value
        return rows_NC


def cayley(skew: Tensor) -> Tensor:
    """The rotations (D, H, H) of skew-symmetric matrices: (1 - S) (1 + S)^-1."""
    one = torch.eye(skew.shape[-1]).expand_as(skew)
    return torch.linalg.solve(one + skew, one - skew, left=False)


def skew_of(values: Tensor) -> Tensor:
    """Skew-symmetric matrices (D, H, H) from what is above their diagonals (D, H (H - 1) / 2)."""
    size = round((1 + math.sqrt(1 + 8 * values.shape[1])) / 2)
    matrix = torch.zeros(len(values), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    matrix[:, rows, columns] = values
    return matrix - matrix.transpose(1, 2)


def neumann(skew: Tensor, terms: int) -> Tensor:
    """Nearly `cayley` of -S, cut off after some terms: 1 + 2 S + 2 S^2 + ... + S^n."""
    one = torch.eye(skew.shape[-1]).expand_as(skew)
    if terms < 3:
        return one + 2 * skew if terms == 2 else one.clone()
    total, power, last = one + 2 * skew, skew, max(3, terms - 1)
    for exponent in range(2, last + 1):
        power = power @ skew
        total = total + (power if exponent == last else 2 * power)
    return total


def shrunk(skew: Tensor, largest: float) -> Tensor:
    """Skew-symmetric matrices kept close to zero, as constrained OFT does: of this norm at most, over sqrt(D)."""
    limit = largest / math.sqrt(len(skew))
    norm = skew.norm(dim=(1, 2), keepdim=True)
    return torch.where(norm <= limit, skew, limit * skew / norm)

"""GaLore's mathematics: the low-rank subspace of a weight's gradients, and how it is kept.

Letters in names: M rows and N columns of a weight, R rank, G groups of a quantised basis, B values in a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from swift.errors import ConfigError
from swift.tuners.branch import hosts
from swift.tuners.targets import find_all_linears, find_embeddings, find_targets

PROJECTIONS = ("std", "reverse_std", "left", "right", "full")
BITS = (2, 4, 8)
BF16_DROPS = 16  # bits of a float32 that bfloat16 does not have


@dataclass(kw_only=True)
class GaLoreConfig:
    """GaLore: full training whose optimiser keeps its moments in a low-rank subspace of the gradient.

    For a weight W [M, N] with gradient G, every `update_proj_gap` steps U S Vᵀ = svd(G); P [M, R] is the first R =
    `rank` columns of U, Q [R, N] the first R rows of Vᵀ. Each step, with any optimiser ρ of single numbers:

        low = PᵀG [R, N]  or  GQᵀ [M, R]  or  PᵀGQᵀ [R, R]
        W ← (1 - lr·weight_decay)·W + `galore_scale` · P ρ(low)  or  ρ(low) Q  or  P ρ(low) Q

    Paper: GaLore, https://arxiv.org/abs/2403.03507, section 4.1, algorithm 1. With `quantize` Q-GaLore,
    https://arxiv.org/abs/2407.08296, section 3: a layer whose subspace stays the same is decomposed less and less
    often, and weights in bfloat16 are rounded stochastically, so that small updates count on average.

    Memory of the state in numbers, for AdamW; the dense optimiser's is 2·M·N:
        one side: k·R for the basis and 2·R·(M·N/k) for the moments, where k, the side that is projected, is
        min(M, N) for `std`, max(M, N) for `reverse_std`, M for `left`, N for `right`;
        `full`: (M + N)·R and 2·R². With `proj_quant` the basis takes `proj_bits` a number, and 8 bytes a group.
    Numbers are float32, or float64 for float64 weights. Compute: one svd, O(M·N·min(M, N)), per gap and weight.

    The model itself is what is saved: the method leaves nothing in it. Deviations: our `update_proj_gap` and
    `galore_scale` are 50 and 1.0, as fine-tuning takes few steps with a rate of its own, where the paper pre-trains
    with 200 and 0.25; a square weight is projected from the right by `std`, where the paper says left; a side that is
    no longer than the rank is not projected, so that a full rank is the dense optimiser, where the paper would still
    rotate into singular vectors; the moments of bfloat16 weights are float32; `quantize` leaves weights in their
    precision instead of INT8, and the moments to the optimiser, which 8-bit AdamW makes 8 bits as in the paper.

    Args:
        rank: R; a side of a weight that is not longer is not projected.
        target_modules: a regular expression for module paths, or endings of paths; what trains below them with two
            dimensions (three: a stack of matrices) is projected. None is all linear layers but the head.
        update_proj_gap: steps from one decomposition to the next.
        galore_scale: α, the factor of the projected update.
        proj_type: which sides are projected: `std` the shorter, `reverse_std` the longer, `left`, `right`, `full`.
        optim_per_parameter: update each weight as soon as its gradient is there, and free that at once: gradients
            take the memory of one weight. No gradient accumulation, one process.
        with_embedding: project the input embedding too.
        quantize: Q-GaLore's subspaces and rounding; the four last arguments only count then.
        proj_quant: keep the bases quantised, whether with `quantize` or without.
        proj_bits: bits of a quantised number: 2, 4 or 8.
        proj_group_size: numbers that share a scale.
        cos_threshold: how alike subspaces have to be, on average, for a longer gap: the cosine of the angle between the
            leading singular vectors of two decompositions, 0 to 1.
        gamma_proj: what the gap is multiplied by then.
        queue_size: decompositions that are compared.
    """

    rank: int = 128
    target_modules: str | Sequence[str] | None = None
    update_proj_gap: int = 50
    galore_scale: float = 1.0
    proj_type: str = "std"
    optim_per_parameter: bool = False
    with_embedding: bool = False
    quantize: bool = False
    proj_quant: bool = False
    proj_bits: int = 4
    proj_group_size: int = 256
    cos_threshold: float = 0.4
    gamma_proj: float = 2
    queue_size: int = 5

    def check(self) -> None:
        """Make sure that the values mean something. Raises ConfigError for the first that does not."""
        if self.proj_type not in PROJECTIONS:
            raise _wrong("proj_type", self.proj_type, f"one of {', '.join(PROJECTIONS)}")
        if self.proj_bits not in BITS:
            raise _wrong("proj_bits", self.proj_bits, "2, 4 or 8")
        for name in ("rank", "update_proj_gap", "proj_group_size", "gamma_proj", "queue_size"):
            if getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "at least 1")
        if not 0 <= self.cos_threshold <= 1:
            raise _wrong("cos_threshold", self.cos_threshold, "from 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        """The values by name, for JSON."""
        return asdict(self)


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError("CONFIG-02", f"GaLore: {name} is {value!r}", fix=f"it is {wanted}")


def projected_parameters(model: nn.Module, config: GaLoreConfig) -> list[nn.Parameter]:
    """The trainable weights of `model` that are projected.

    Raises:
        UnknownNameError: no module is named as the targets say.
        ConfigError: the named modules hold no matrix that trains.
    """
    said = config.target_modules
    targets = (
        find_all_linears(model) if said is None else find_targets(model, [said] if isinstance(said, str) else said)
    )
    modules = [module for _, module in hosts(model, targets)]
    if config.with_embedding:
        modules += [module for _, module in hosts(model, find_embeddings(model))]
    found = {p: None for module in modules for p in module.parameters() if p.requires_grad and p.ndim in (2, 3)}
    if not found:
        raise ConfigError("CONFIG-02", f"GaLore: no matrix that trains lies in {targets}", fix="name linear layers")
    return list(found)


def sides(rows: int, columns: int, config: GaLoreConfig) -> tuple[bool, bool]:
    """Whether the left and the right side of a [rows, columns] gradient are projected; one within the rank is not."""
    kind = config.proj_type
    if kind in ("std", "reverse_std"):
        kind = "right" if (rows >= columns) == (kind == "std") else "left"
    return kind in ("left", "full") and rows > config.rank, kind in ("right", "full") and columns > config.rank


def project(gradient_MN: Tensor, left_MR: Tensor | None, right_RN: Tensor | None) -> Tensor:
    """The gradient in the subspace: PᵀG, GQᵀ or PᵀGQᵀ."""
    low = gradient_MN if left_MR is None else left_MR.mT @ gradient_MN
    return low if right_RN is None else low @ right_RN.mT


def project_back(low: Tensor, left_MR: Tensor | None, right_RN: Tensor | None) -> Tensor:
    """A step in the subspace as a step of the whole weight."""
    step_MN = low if left_MR is None else left_MR @ low
    return step_MN if right_RN is None else step_MN @ right_RN


@dataclass
class Subspace:
    """The subspace of one weight.

    Args:
        step: gradients seen.
        due: the step at which the next decomposition comes.
        gap: steps from one decomposition to the next.
        left: P as `stored` keeps it, None where that side is not projected.
        right: Q, likewise.
        leading: the leading singular vector, kept for Q-GaLore's comparison.
        similarities: how alike it was to the one before, newest last.
    """

    step: int = 0
    due: int = 0
    gap: int = 0
    left: dict[str, Any] | None = None
    right: dict[str, Any] | None = None
    leading: Tensor | None = None
    similarities: list[float] = field(default_factory=list)

    def bases(self, gradient_MN: Tensor, config: GaLoreConfig) -> tuple[Tensor | None, Tensor | None]:
        """P and Q for the next gradient, from a decomposition of it when one is due."""
        if self.step >= self.due:
            self._decompose(gradient_MN, config)
        self.step += 1
        kept = [None if basis is None else restored(basis) for basis in (self.left, self.right)]
        return kept[0], kept[1]

    def _decompose(self, gradient_MN: Tensor, config: GaLoreConfig) -> None:
        on_left, on_right = sides(gradient_MN.shape[-2], gradient_MN.shape[-1], config)
        self.gap = self.gap or config.update_proj_gap
        if on_left or on_right:
            left_MK, _, right_KN = torch.linalg.svd(gradient_MN, full_matrices=False)
            self.left = stored(left_MK[..., : config.rank], config) if on_left else None
            self.right = stored(right_KN[..., : config.rank, :], config) if on_right else None
            if config.quantize:
                self._compare((left_MK[..., 0] if on_left else right_KN[..., 0, :]).clone(), config)
        self.due = self.step + self.gap

    def _compare(self, leading: Tensor, config: GaLoreConfig) -> None:
        """Lengthen the gap when the last subspaces were alike; a singular vector's sign is chance."""
        if self.leading is not None:
            cosine = (self.leading * leading).sum(-1).abs().mean().item()
            self.similarities = [*self.similarities, cosine][-config.queue_size :]
            mean = sum(self.similarities) / config.queue_size
            if len(self.similarities) == config.queue_size and mean >= config.cos_threshold:
                self.gap = int(self.gap * config.gamma_proj)
        self.leading = leading


def stored(basis: Tensor, config: GaLoreConfig) -> dict[str, Any]:
    """A basis as it is kept: itself, or codes of a few bits with a lowest value and a step for each group."""
    if not config.proj_quant:
        return {"values": basis.clone(memory_format=torch.contiguous_format)}
    flat, size = basis.flatten(), config.proj_group_size
    padded = torch.cat([flat, flat[-1:].expand(-len(flat) % size)])
    values_GB = padded.view(-1, size)
    low_G1 = values_GB.amin(-1, keepdim=True)
    step_G1 = (values_GB.amax(-1, keepdim=True) - low_G1).clamp_min(torch.finfo(basis.dtype).tiny)
    step_G1 = step_G1 / (2**config.proj_bits - 1)
    codes_GB = ((values_GB - low_G1) / step_G1).round().to(torch.uint8)
    packed = pack(codes_GB.flatten(), config.proj_bits)
    return {"codes": packed, "low": low_G1, "step": step_G1, "shape": list(basis.shape), "bits": config.proj_bits}


def restored(kept: dict[str, Any]) -> Tensor:
    """The basis that `stored` kept."""
    if "values" in kept:
        return kept["values"]
    codes_GB = unpack(kept["codes"], kept["bits"]).view(len(kept["low"]), -1)
    values = (codes_GB * kept["step"] + kept["low"]).flatten()
    shape = torch.Size(kept["shape"])
    return values[: shape.numel()].view(shape)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of 2, 4 or 8 bits, several to a byte; what is missing in the last byte is zero."""
    each = 8 // bits
    padded = torch.cat([codes, codes.new_zeros(-len(codes) % each)]).view(-1, each)
    return sum((padded[:, i] << (bits * i) for i in range(1, each)), padded[:, 0].clone())


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The codes in `packed`, the zeros at its end among them."""
    return torch.stack([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1).flatten()


def rounded_to_bf16(values: Tensor, seed: int) -> Tensor:
    """Float32 values as bfloat16, up or down by chance, so that the mean over seeds is the value itself."""
    generator = torch.Generator(values.device).manual_seed(seed)
    noise = torch.randint(2**BF16_DROPS, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = (values.contiguous().view(torch.int32) + noise) & -(2**BF16_DROPS)
    return bits.view(torch.float32).bfloat16()

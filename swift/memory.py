"""Whether training fits the memory with its activations kept, from facts of the model's config alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swift.arguments.sft import SftArguments

SHARE = 0.8  # of the memory that may be planned with: kernels, buffers and fragments take the rest
WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2}
STORED = {"float32": 4, "float64": 8}  # the others take two bytes
GIB = 2**30
LONGEST = 32768  # tokens of a row where nothing else limits it
TUNED = 0.02  # the share of the parameters that a tuner trains, about


@dataclass(frozen=True)
class Needs:
    """Bytes that training takes at its height: weights, gradients and optimiser states; activations all kept."""

    states: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.states + self.activations


def decide_checkpointing(
    args: SftArguments, kinds: list[str], config: Mapping[str, Any], weight_bytes: int, memory: int | None
) -> tuple[bool, str]:
    """Whether to compute activations twice, and why.

    Args:
        args: the options, with the precision decided.
        kinds: what trains (`swift.decide.tuner_kinds`).
        config: the model's config.json.
        weight_bytes: of its files; 0 when they are not there yet.
        memory: what the device has free, in bytes; None when that is not known.
    """
    if "prefix_tuning" in kinds:
        return False, "prefix_tuning works without only"
    if args.tuner_backend == "unsloth":
        return True, "unsloth has its own way of it"
    needs = needs_of(args, kinds == ["full"], config, weight_bytes)
    if needs is None or not memory:
        return True, "the memory that training takes is not known beforehand"
    said = f"training takes about {needs.total / GIB:.1f} GiB without"
    room = f"{memory / GIB:.1f} GiB are free"
    return needs.total > SHARE * memory, f"{said}, {room}"


def needs_of(args: SftArguments, full: bool, config: Mapping[str, Any], weight_bytes: int) -> Needs | None:
    """What training takes; None where the config or the files do not tell."""
    text = config.get("text_config") or config
    hidden, layers = text.get("hidden_size"), text.get("num_hidden_layers")
    if not weight_bytes or not hidden or not layers or config.get("quantization_config"):
        return None
    inner = (text.get("intermediate_size") or 4 * hidden) * (text.get("num_experts_per_tok") or 1)
    heads = text.get("num_attention_heads") or 1
    keys = hidden * (text.get("num_key_value_heads") or heads) // heads
    width = WIDTHS[args.dtype]
    stored = STORED.get(str(config.get("torch_dtype") or config.get("dtype")), 2)
    parameters = weight_bytes // stored
    trained = parameters * width if full else int(TUNED * parameters) * 4
    wide = 4 * 4 * hidden  # two norms compute in float32 and keep their input and their output
    kept = width * (6 * hidden + 4 * keys + 4 * inner) + wide
    return Needs(states=parameters * width + 3 * trained, activations=_tokens(args, text) * layers * kept)


def _tokens(args: SftArguments, text: Mapping[str, Any]) -> int:
    """The tokens of a batch, as many as it may have."""
    if args.max_tokens_per_batch:
        return args.max_tokens_per_batch
    longest = args.max_length if args.max_length > 0 else min(text.get("max_position_embeddings") or LONGEST, LONGEST)
    return args.batch_size * longest

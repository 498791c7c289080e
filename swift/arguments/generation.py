"""Options of text generation."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class SamplingOptions:
    """How answers are sampled."""

    max_new_tokens: int = option(2048, group="Generation", minimum=1, unit="tokens", help="Longest answer.")
    do_sample: bool = option(True, group="Generation", help="Sample; false always takes the likeliest token.")
    temperature: float = option(0.3, group="Generation", minimum=0, help="How freely to sample; 0 is not at all.")
    top_k: int = option(20, group="Generation", minimum=0, help="Sample among the k likeliest tokens; 0 is all.")
    top_p: float = option(
        0.7, group="Generation", minimum=0, maximum=1, help="Sample among the likeliest tokens up to this probability."
    )
    repetition_penalty: float = option(
        1.0, group="Generation", minimum=0.01, help="Above 1 makes repeated tokens less likely."
    )
    num_beams: int = option(
        1, group="Generation", minimum=1, help="Width of beam search; 1 is none, and more cannot stream."
    )


@dataclass(kw_only=True)
class GenerationOptions(SamplingOptions):
    """How answers are sampled, where they end, and whether that is kept."""

    stop_words: list[str] = option([], group="Generation", help="Texts that end an answer, besides the template's own.")
    overwrite_generation_config: bool = option(
        False,
        group="Generation",
        help="Write these settings into the generation_config.json of the checkpoint, or of the model without one.",
    )
    prompt_lookup_num_tokens: int | None = option(
        None,
        group="Generation",
        minimum=1,
        unit="tokens",
        help="Guess so many tokens ahead from what stood before and check them in one pass: sooner where answers copy.",
        none="guess nothing",
    )

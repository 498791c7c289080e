"""The generation settings a run really uses: what was said, completed, and fitted to the model and the template."""

from __future__ import annotations

import copy
from typing import Any

from transformers import GenerationConfig

from swift.arguments.generation import GenerationOptions, SamplingOptions
from swift.errors import DataError
from swift.models.load import get_max_model_len
from swift.templates.encoding import Template

DEFAULT_NEW_TOKENS = 2048


def generation_config(args: SamplingOptions) -> GenerationConfig:
    """The generation options for transformers."""
    sampling = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p} if args.do_sample else {}
    return GenerationConfig(
        max_new_tokens=args.max_new_tokens,
        do_sample=args.do_sample,
        repetition_penalty=args.repetition_penalty,
        num_beams=args.num_beams,
        prompt_lookup_num_tokens=args.prompt_lookup_num_tokens if isinstance(args, GenerationOptions) else None,
        **sampling,
    )


def prepare_generation_config(
    model: Any, template: Template, said: GenerationConfig | None = None, *, num_prompt_tokens: int = 0
) -> GenerationConfig:
    """A copy of `said` (None: the model's own settings) for one answer as plain ids, which makes no warning.

    It stops on the template's end of turn, the tokenizer's and those already named. `max_new_tokens` (2048 when
    nobody says one) is cut so that the prompt and the answer fit the model's length; it is 0 or less when the prompt
    alone does not. A temperature of 0 means no sampling.
    """
    config = copy.deepcopy(said if said is not None else model.generation_config)
    tokenizer = template.tokenizer
    config.eos_token_id = _unique(template.stop_ids, [tokenizer.eos_token_id], config.eos_token_id)
    config.bos_token_id = tokenizer.bos_token_id
    config.pad_token_id = _first(tokenizer.pad_token_id, config.pad_token_id, *config.eos_token_id, 0)
    config.max_new_tokens = _new_tokens(config, num_prompt_tokens, max_model_length(model))
    config.max_length = None
    config.use_cache, config.num_return_sequences, config.return_dict_in_generate = True, 1, False
    if not config.do_sample or config.temperature == 0:
        config.do_sample, config.temperature, config.top_p, config.top_k = False, 1.0, 1.0, 50
    return config


def require_room(model: Any, config: GenerationConfig, num_prompt_tokens: int) -> None:
    """Raise DataError when `prepare_generation_config` found no room for an answer."""
    if config.max_new_tokens < 1:
        raise DataError(
            "DATA-06",
            f"the prompt of {num_prompt_tokens} tokens leaves no room for an answer",
            why=f"the model reads at most {max_model_length(model)} tokens",
            fix="shorten the conversation, or clear the history",
        )


def max_model_length(model: Any) -> int | None:
    """How many tokens the model can attend to, from its configuration; None when that does not say."""
    return get_max_model_len(model.config.to_dict())


def _new_tokens(config: GenerationConfig, num_prompt_tokens: int, limit: int | None) -> int:
    wanted = config.max_new_tokens
    if wanted is None:
        wanted = config.max_length - num_prompt_tokens if config.max_length else DEFAULT_NEW_TOKENS
    return wanted if limit is None else min(wanted, limit - num_prompt_tokens)


def _unique(*ids: Any) -> list[int]:
    flat = [i for item in ids for i in ([item] if isinstance(item, int) else item or [])]
    return list(dict.fromkeys(i for i in flat if i is not None))


def _first(*ids: Any) -> int:
    return next(i for i in ids if i is not None)

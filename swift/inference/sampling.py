"""Choosing the next token of one answer: by its own settings and seed, whoever else is being answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

COLDEST = 1e-3  # below it scores are no numbers any more; the likeliest token is drawn long before
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIXED = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
FIRST = 1024  # candidates that are put in order before all are: a whole vocabulary takes longer to sort than to read
PLAIN, CHOSEN = "plain", "chosen"  # the likeliest of the model's own logits; anything else
ELSEWHERE = (
    "num_beams", "penalty_alpha", "dola_layers", "guidance_scale", "sequence_bias", "bad_words_ids", "force_words_ids",
    "constraints", "typical_p", "epsilon_cutoff", "eta_cutoff", "forced_bos_token_id", "forced_eos_token_id",
    "suppress_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty", "encoder_repetition_penalty",
    "encoder_no_repeat_ngram_size", "watermarking_config", "token_healing", "min_length",
    "remove_invalid_values", "renormalize_logits", "top_h",
)  # fmt: skip  # settings of `model.generate` alone


class Sampler:
    """Chooses tokens as `config` says: temperature, top_k, top_p and min_p in this order, repetition kept down before.

    Args:
        config: settings; those of `ELSEWHERE` must be off.
        prompt_ids: of the question; they count as repeated too.
        seed: of the draws; one must be said to sample.
        presence: is taken off the logits of all tokens that the answer has already.
        frequency: is taken off them for each time that it has them.
        bias: is added to the logits of some tokens.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt_ids: Sequence[int] = (),
        seed: int | None = None,
        *,
        presence: float = 0.0,
        frequency: float = 0.0,
        bias: Mapping[int, float] | None = None,
    ) -> None:
        self.config, self.prompt_ids = config, list(prompt_ids)
        self._read = torch.tensor([self.prompt_ids], dtype=torch.long)  # and as much of the answer as was asked about
        self.presence, self.frequency, self.bias = presence, frequency, bias or {}
        self.processors = self._processors()
        self.generator: torch.Generator | None = None
        self.seed = seed
        changed = config.do_sample or self.processors or presence or frequency or self.bias
        self.kind = CHOSEN if changed else PLAIN

    @staticmethod
    def serves(config: GenerationConfig) -> bool:
        """Whether these settings are all that `config` asks."""
        neutral = GenerationConfig()
        values = [(getattr(config, name, None), getattr(neutral, name, None)) for name in ELSEWHERE]
        return all(value in (None, plain, 1, 0, 1.0, False) for value, plain in values)

    def choose(self, logits_V: Tensor, ids: Sequence[int]) -> int:
        """The next token after the prompt and `ids`."""
        scores_V = self._biased(self._repeated(logits_V, ids))
        if self.processors:
            so_far = self._so_far(ids, logits_V.device)
            for processor in self.processors:
                scores_V = processor(so_far, scores_V[None])[0]  # type: ignore[arg-type]
        return self.draw(scores_V) if self.config.do_sample else int(likeliest(scores_V))

    def draw(self, scores_V: Tensor) -> int:
        """A token drawn from scores (V,)."""
        if self.generator is None:
            assert self.seed is not None
            self.generator = torch.Generator(scores_V.device).manual_seed(self.seed)
        probabilities_K, ids_K = candidates(scores_V, self.config)
        return int(ids_K[drawn(probabilities_K, waits(ids_K, self.generator))])

    def _so_far(self, ids: Sequence[int], device: torch.device) -> Tensor:
        """The prompt and these ids, which begin with those of the last time, (1, T)."""
        new = torch.tensor([ids[self._read.shape[1] - len(self.prompt_ids) :]], dtype=torch.long, device=device)
        self._read = torch.cat([self._read.to(device), new], 1)
        return self._read

    def _repeated(self, logits_V: Tensor, ids: Sequence[int]) -> Tensor:
        """Logits without what repetition costs (https://platform.openai.com/docs/api-reference/chat/create)."""
        if not ids or not (self.presence or self.frequency):
            return logits_V
        answer = self._so_far(ids, logits_V.device)[0, len(self.prompt_ids) :]
        said, counts = answer.unique(return_counts=True)
        scores_V = logits_V.clone()
        scores_V[said] -= self.presence + self.frequency * counts
        return scores_V

    def _biased(self, logits_V: Tensor) -> Tensor:
        if not self.bias:
            return logits_V
        places, values = (
            torch.tensor(list(part), device=logits_V.device) for part in zip(*self.bias.items(), strict=True)
        )
        return logits_V.index_add(0, places, values.to(logits_V.dtype))

    def _processors(self) -> list[LogitsProcessor]:
        config = self.config
        made: list[LogitsProcessor] = []
        if config.repetition_penalty not in (None, 1.0):
            made.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        if config.no_repeat_ngram_size:
            made.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
        if config.min_new_tokens:
            prompt = len(self.prompt_ids)
            made.append(MinNewTokensLengthLogitsProcessor(prompt, config.min_new_tokens, config.eos_token_id))
        return made


def likeliest(scores_V: Tensor) -> Tensor:
    """The first of the largest along the last dimension of (…, V)."""
    if scores_V.is_cpu and scores_V.dtype in (torch.float32, torch.float64):  # NumPy is ten times as fast
        return torch.as_tensor(scores_V.numpy().argmax(-1))
    return scores_V.argmax(-1)


def candidates(scores_V: Tensor, config: GenerationConfig) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn, (K,): their probabilities and their ids; where some may not, likeliest first.

    The same as transformers' warpers leave, with the search kept to the likeliest `top_k`.
    """
    warmth, count = max(float(config.temperature or 1.0), COLDEST), len(scores_V)
    if config.top_k and config.top_k < count:
        scores_K, ids_K = scores_V.topk(config.top_k)
        probabilities_K = ((scores_K.float() - scores_K[0]) / warmth).softmax(-1)
        return _normal(probabilities_K * _kept(probabilities_K, config)), ids_K
    probabilities_V = ((scores_V.float() - scores_V.max()) / warmth).softmax(-1)
    if config.min_p is None and (config.top_p is None or config.top_p >= 1):
        return probabilities_V, torch.arange(count, device=scores_V.device)
    probabilities_K, ids_K = probabilities_V.topk(min(FIRST, count))
    kept_K = _kept(probabilities_K, config)
    if kept_K[-1] and count > FIRST:
        probabilities_K, ids_K = probabilities_V.sort(descending=True)
        kept_K = _kept(probabilities_K, config)
    return _normal(probabilities_K * kept_K), ids_K


def _kept(probabilities_K: Tensor, config: GenerationConfig) -> Tensor:
    """Which of some tokens, likeliest first, `top_p` and `min_p` leave."""
    kept_K = torch.ones_like(probabilities_K, dtype=torch.bool)
    if config.top_p is not None and config.top_p < 1:
        kept_K &= probabilities_K.cumsum(-1) - probabilities_K < config.top_p
        kept_K[0] = True
    if config.min_p is not None:
        kept_K &= probabilities_K >= config.min_p * probabilities_K[0]
    return kept_K


def _normal(weights_K: Tensor) -> Tensor:
    return weights_K / weights_K.sum()


def waits(ids_K: Tensor, generator: torch.Generator) -> Tensor:
    """Exponential waits of some tokens, of one number of the generator: each has its own, whoever else is there.

    Paper: Fast splittable pseudorandom number generators, https://doi.org/10.1145/2714064.2660195 (SplitMix64).
    """
    x_K = ids_K * GOLDEN + torch.empty((), dtype=torch.long, device=ids_K.device).random_(generator=generator)
    for shift, factor in MIXED:
        x_K = (x_K ^ _shifted(x_K, shift)) * factor
    x_K = x_K ^ _shifted(x_K, 31)
    return -((_shifted(x_K, 11).double() + 0.5) * 2.0**-53).log().float()


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def drawn(probabilities_K: Tensor, waits_K: Tensor) -> Tensor:
    """The place of one of some tokens, drawn as often as its probability says.

    Each waits a time that its probability shortens, and the first is taken: what rounds otherwise beside other rows
    changes hardly ever who that is, as it would the place of a point in the sums of all before it.

    Raises:
        ValueError: these are no probabilities.
    """
    if not math.isfinite(float(probabilities_K.sum())):
        raise ValueError("the model's scores are no numbers")
    return likeliest(probabilities_K / waits_K.clamp(min=torch.finfo(waits_K.dtype).tiny))

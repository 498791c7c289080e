"""Continuous batching: a row that ends makes room for the next while others go on, each as if it were alone.

Letters in names: B rows, T tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from swift import dist
from swift.errors import ConfigError, SwiftError
from swift.inference.angles import angles_by_length, read_anew_at
from swift.inference.cache import SlotCache
from swift.inference.engine import BASE, Generation, Stepwise, TokenLogprobs
from swift.inference.lookup import Lookup
from swift.inference.prefixes import Prefixes
from swift.inference.sampling import PLAIN, Sampler, likeliest
from swift.inference.sharing import forget_names
from swift.log import get_logger
from swift.tuners.model import SwiftModel

logger = get_logger()
FULL_LAYERS = {"full_attention", "sliding_attention", "attention"}
LEAST_TRIM = 64
ALIKE = 0.7  # rows are read together when the shorter has at least this share of the longer's tokens,
BUSY, CLOSE = 1024, 0.95  # or this one, where a processor has so many tokens to read that more are no cheaper each


class _Row:
    """A row of the batch: `pad` columns of the cache are not its own; its last token is not in the cache yet."""

    def __init__(self, generation: Generation, length: int, pad: int) -> None:
        self.generation, self.length, self.pad = generation, length, pad
        request = generation.request
        self.constraint = request.constraint() if request.constraint is not None else None
        self.sampler = _sampler(generation)
        most = request.config.prompt_lookup_num_tokens
        self.lookup = Lookup(request.prompt_ids, most) if most else None

    @property
    def live(self) -> bool:
        """Whether it wants another token."""
        return self.generation.finish_reason is None and self.generation.failure is None

    @property
    def plain(self) -> bool:
        """Whether its next token is the likeliest."""
        return self.sampler.kind == PLAIN and self.constraint is None

    def guess(self) -> list[int]:
        """What may follow its last token."""
        if self.lookup is None or not self.live:
            return []
        ids = self.generation.ids
        return self.lookup.guess(ids, int(self.generation.request.config.max_new_tokens or 0) - len(ids) - 1)

    def choose(self, logits_V: Tensor) -> int:
        """Its next token."""
        scores_V = logits_V if self.constraint is None else self.constraint.allow(logits_V)
        token = self.sampler.choose(scores_V, self.generation.ids)
        if self.constraint is not None:
            self.constraint.accept(token)
        return token


class Batching(Stepwise):
    """An engine on a transformers model; all methods but `submit` belong to one thread.

    Args:
        model: a causal language model that `serves` says yes of.
        slots: how many rows are answered at once.
        prefill_tokens: how many tokens of prompts are read in one pass, at most, unless one prompt alone has more.
        cache_tokens: how many tokens of all rows may be remembered; None is as many as half the free memory holds.
        prefixes: beginnings of prompts that need not be read again; None remembers none.
    """

    def __init__(
        self,
        model: Any,
        slots: int = 64,
        *,
        prefill_tokens: int = 4096,
        cache_tokens: int | None = None,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.model, self.slots, self.prefill_tokens, self.prefixes = model, slots, prefill_tokens, prefixes
        self.cache_tokens = cache_tokens
        self.turning, self._anew_at = angles_by_length(model), read_anew_at(model)
        if self.turning:
            if slots > 1:
                logger.info(f"one answer at a time: with {self.turning} RoPE, longer rows would change the others")
            self.slots, self.prefixes = 1, None
        self.knows: Callable[[str | None], bool] = lambda adapter: True  # whether an adapter is still there
        self._waiting: deque[Generation] = deque()
        self._lock = threading.Lock()
        self._rows: list[_Row] = []
        self._reading: list[Generation] = []  # taken from those who wait, and not all in the batch yet
        self._cache = SlotCache()
        self._takes = accepted(model)
        self._active = model.active_adapters if isinstance(model, SwiftModel) else None

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or any(row.live for row in self._rows))

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return sum(row.live for row in self._rows)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    def queue(self, generation: Generation) -> None:
        """Queue an answer, from any thread.

        Raises:
            ConfigError: its settings are such that nothing can be chosen with them; the others never meet it.
        """
        try:
            _sampler(generation)
        except (TypeError, ValueError) as error:
            raise ConfigError("CONFIG-01", "no token can be chosen with these settings", why=str(error)) from None
        with self._lock:
            self._waiting.append(generation)

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """One token more for every row, after new ones came in; the answers that grew or ended."""
        if self.model.training or not self._rows:  # asking every layer at every token takes its time
            self.model.eval()
        if self._active is not None and self.model.active_adapters != self._active:
            self.model.set_active_adapters(sorted(self._active))
        changed = self._drop_cancelled()
        self._reading = self._admitted()
        for group in self._groups(self._reading):
            changed += self._read(group)
        self._reading = []
        if any(row.live for row in self._rows):
            self._tidy()
            changed += self._go_on()
        if not any(row.live for row in self._rows):
            self._forget()
        return changed

    def cancel_adapter(self, adapter: str) -> int:
        """End all answers by an adapter with the next step; how many there are."""
        rows = [row.generation for row in self._rows if row.live]
        found = [each for each in [*rows, *self._waiting] if each.request.adapter == adapter]
        for generation in found:
            generation.cancel()
        return len(found)

    def forget_adapter(self, adapter: str) -> None:
        """Forget what an adapter computed: another may come with its name."""
        if self.prefixes is not None:
            self.prefixes.forget(adapter)

    def give_up(self, error: Exception) -> list[Generation]:
        """Forget every answer that is at work because of `error`; those that wait are left."""
        failed = [row.generation for row in self._rows if row.live]
        failed += [generation for generation in self._reading if generation.finish_reason is None]
        for generation in failed:
            generation.failure = error
        self._rows, self._cache, self._reading = [], SlotCache(), []
        if isinstance(self.model, PeftModel):
            forget_names(self.model)
        return failed

    def _drop_cancelled(self) -> list[Generation]:
        for generation in list(self._waiting):
            if not self.knows(generation.request.adapter):
                generation.cancel()
        with self._lock:
            given_up = [generation for generation in self._waiting if generation.stop.is_set()]
            self._waiting = deque(generation for generation in self._waiting if not generation.stop.is_set())
        given_up += [row.generation for row in self._rows if row.live and row.generation.stop.is_set()]
        for generation in given_up:
            generation.finish_reason = "stopped"
        return given_up

    def _admitted(self) -> list[Generation]:
        """Those that come in now: none until an eighth of the slots is free, as reading one row costs like many."""
        live = [row for row in self._rows if row.live]
        free = self.slots - len(live)
        if free < max(1, self.slots // 8) or not self._waiting:
            return []
        longest = max((_final_length(row.generation) for row in live), default=0)
        come: list[Generation] = []
        with self._lock:
            while self._waiting and len(come) < free:
                if not self.knows(self._waiting[0].request.adapter):
                    break  # it went since this step began: the next one ends whoever waits for it
                if come and not self._cache.slots and self.cache_tokens is None:
                    break  # what a token takes is known after the first
                longest = max(longest, _final_length(self._waiting[0]))
                if (live or come) and longest * (len(live) + len(come) + 1) > self._limit():
                    break
                come.append(self._waiting.popleft())
        return come

    def _limit(self) -> float:
        if self.cache_tokens is None and self._cache.slots:
            free = free_memory(self.model.device)
            self.cache_tokens = 0 if free is None else max(1, free // 2 // self._cache.bytes_per_token)  # 0: no limit
        return self.cache_tokens or float("inf")

    def _groups(self, come: Sequence[Generation]) -> Iterator[list[Generation]]:
        """Prompts of like length, few enough to be read in one pass."""
        group: list[Generation] = []
        for generation in sorted(come, key=lambda each: -len(each.request.prompt_ids)):
            length = len(generation.request.prompt_ids)
            longest = len(group[0].request.prompt_ids) if group else length
            busy = longest * len(group) >= BUSY and self.model.device.type == "cpu"
            alike = length >= (CLOSE if busy else ALIKE) * longest
            if group and (not alike or longest * (len(group) + 1) > self.prefill_tokens):
                yield group
                group = []
            group.append(generation)
        if group:
            yield group

    def _read(self, group: list[Generation]) -> list[Generation]:
        """Read prompts, answer their first token, and let those that go on into the batch."""
        width = max(len(generation.request.prompt_ids) for generation in group)
        rows = [_Row(g, len(g.request.prompt_ids), width - len(g.request.prompt_ids)) for g in group]
        cache, tokens = SlotCache(), width
        if self.turning:
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.model.device))  # forgets longer rows
        if self.prefixes is not None:
            cache, tokens = self.prefixes.find([(g.request.adapter, g.request.prompt_ids) for g in group])
        ids = [([0] * row.pad + row.generation.request.prompt_ids)[-tokens:] for row in rows]
        logits = self._forward(ids, rows, cache)
        changed = self._write(rows, logits)
        if self.prefixes is not None:
            for k, row in enumerate(rows):
                request = row.generation.request
                self.prefixes.add(request.adapter, request.prompt_ids, cache, k, row.pad)
        going = [k for k, row in enumerate(rows) if row.live]
        if going:
            if len(going) < len(rows):
                cache.keep(going)
            self._join([rows[k] for k in going], cache)
        return changed

    def _join(self, rows: list[_Row], cache: SlotCache) -> None:
        gone = [k for k, row in enumerate(self._rows) if not row.live]
        if len(gone) == len(self._rows):
            self._rows, self._cache = rows, cache
            return
        before = self._cache.length
        places = self._cache.splice(gone, cache)
        for row in self._rows:
            row.pad += self._cache.length - before
        for place, row in zip(places, rows, strict=True):
            row.pad = self._cache.length - row.length
            self._rows[place : place + 1] = [row]

    def _tidy(self) -> None:
        """Forget rows that have ended, once they are an eighth, and columns that nobody has."""
        live = [k for k, row in enumerate(self._rows) if row.live]
        first = min(self._rows[k].pad for k in live)
        if first < max(LEAST_TRIM, self._cache.length // 4):
            first = 0
        if first or 8 * (len(self._rows) - len(live)) >= len(self._rows):
            self._cache.keep(live, first)
            self._rows = [self._rows[k] for k in live]
            for row in self._rows:
                row.pad -= first

    def _forget(self) -> None:
        """Keep nothing of the last rows for the time in which nobody asks."""
        if self._rows:
            self._limit()
            self._rows, self._cache = [], SlotCache()

    def _go_on(self) -> list[Generation]:
        """A token more for every live row, and as many more as were guessed right; the answers that grew."""
        if self._rows[0].length == self._anew_at:
            self._cache, only = SlotCache(), self._rows[0].generation
            return self._write(self._rows, self._forward([only.request.prompt_ids + only.ids], self._rows, self._cache))
        guesses = [[] if self.turning else row.guess() for row in self._rows]
        most = max(map(len, guesses))
        last = [
            [row.generation.ids[-1], *guess, *[0] * (most - len(guess))]
            for row, guess in zip(self._rows, guesses, strict=True)
        ]
        before = [len(row.generation.ids) for row in self._rows]
        grown = self._write(self._rows, self._forward(last, self._rows, self._cache, guesses), guesses)
        if most:
            self._take_back(
                [most + 1 + count - len(row.generation.ids) for row, count in zip(self._rows, before, strict=True)]
            )
        return grown

    def _take_back(self, wrong: list[int]) -> None:
        """Forget so many last columns of each row that goes on; all end at the same column again."""
        fewest = min((count for row, count in zip(self._rows, wrong, strict=True) if row.live), default=0)
        self._cache.cut(fewest)
        for k, row in enumerate(self._rows):
            more = wrong[k] - fewest
            if more and row.live:
                self._cache.shift(k, row.pad, more)
                row.pad += more
            row.length = self._cache.length - row.pad

    def _forward(
        self,
        ids: list[list[int]],
        rows: Sequence[_Row],
        cache: SlotCache,
        guesses: Sequence[list[int]] | None = None,
    ) -> Tensor:
        """Logits (B, N, V) behind the last of some ids of every row, which end up in the cache.

        N is 1, or where the last ids are guesses one more than the longest has.
        """
        device, new = self.model.device, len(ids[0])
        columns, wanted = cache.length + new, 1 if guesses is None else new
        pads_B1 = torch.tensor([[row.pad] for row in rows])
        places_BT = torch.arange(columns)[None] - pads_B1
        inputs: dict[str, Any] = {"input_ids": torch.tensor(ids, device=device), "past_key_values": cache}
        if any(row.pad for row in rows):
            inputs["attention_mask"] = (places_BT >= 0).long().to(device)
        elif "attention_mask" in self._takes:
            inputs["attention_mask"] = torch.ones((len(rows), columns), dtype=torch.long, device=device)
        if "position_ids" in self._takes:
            places_BN = places_BT[:, -new:].clamp(min=0)
            if guesses is not None:  # nothing may stand beyond the model's length
                ends_B1 = torch.tensor([[_end(row, guess)] for row, guess in zip(rows, guesses, strict=True)])
                places_BN = places_BN.minimum(ends_B1)
            inputs["position_ids"] = places_BN.to(device)
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = wanted
        if isinstance(self.model, PeftModel):
            active = self.model.active_adapter
            names = [(row.generation.request.adapter if row.live else BASE) or active for row in rows]
            if any(row.live and name != active for row, name in zip(rows, names, strict=True)):
                inputs["adapter_names"] = names
        output = self.model(**inputs, use_cache=True)
        for row in rows:
            row.length = columns - row.pad
        return output.logits[:, -wanted:].float()

    def _write(
        self, rows: Sequence[_Row], logits_BNV: Tensor, guesses: Sequence[list[int]] | None = None
    ) -> list[Generation]:
        """Choose a token for every live row, and the next as long as they are those guessed; the answers that grew."""
        grown = []
        best = likeliest(logits_BNV).tolist() if any(row.plain for row in rows) else []
        for k, row in enumerate(rows):
            if not row.live:
                continue
            generation = row.generation
            grown.append(generation)
            guess = guesses[k] if guesses else []
            try:
                for n in range(len(guess) + 1):
                    token = best[k][n] if row.plain else row.choose(logits_BNV[k, n])
                    if generation.request.logprobs is not None:
                        generation.logprobs.append(_logprobs(logits_BNV[k, n], token, generation.request.logprobs))
                    generation.add(token)
                    if not row.live or token not in guess[n : n + 1]:
                        break
            except (RuntimeError, ValueError, IndexError, SwiftError) as error:  # of this row alone: the others go on
                generation.failure = error
        return grown


def serves(model: Any, config: GenerationConfig) -> bool:
    """Whether an engine can continue prompts with this model as `config` asks; `model.generate` can do the rest."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False
    plain = model.config.get_text_config(decoder=True)
    layers = set(getattr(plain, "layer_types", None) or ())
    stateful = getattr(_innermost(model), "_is_stateful", False)
    simple = not stateful and not plain.is_encoder_decoder and layers <= FULL_LAYERS
    return simple and "past_key_values" in accepted(model) and Sampler.serves(config)


def accepted(model: Any) -> set[str]:
    """The names of what the model's own forward takes."""
    return set(inspect.signature(_innermost(model).forward).parameters)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free where the model is; None where the system does not tell."""
    if device.type == "cuda":  # needs-cuda
        return torch.cuda.mem_get_info(device)[0]
    return dist.free_memory()


def _innermost(model: Any) -> Any:
    if isinstance(model, PeftModel):
        return _innermost(model.get_base_model())
    return _innermost(model.model) if isinstance(model, SwiftModel) else model


def _sampler(generation: Generation) -> Sampler:
    request = generation.request
    return Sampler(
        request.config,
        request.prompt_ids,
        generation.seed,
        presence=request.presence,
        frequency=request.frequency,
        bias=request.bias,
    )


def _end(row: _Row, guess: Sequence[int]) -> int:
    """The last position that a row asks for; one that has ended asks for none, and what is read for it fills up."""
    return row.length + len(guess) if row.live else 0


def _final_length(generation: Generation) -> int:
    return len(generation.request.prompt_ids) + int(generation.request.config.max_new_tokens or 0)


def _logprobs(logits_V: Tensor, token: int, count: int) -> TokenLogprobs:
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(count)
    likeliest = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs_V[token]), likeliest)

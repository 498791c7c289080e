"""`model.generate` as an engine: for beam search, and for models whose memory is not keys and values alone."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from swift.errors import UsageError
from swift.inference.angles import angles_by_length
from swift.inference.engine import Generation, Request
from swift.inference.sampling import Sampler
from swift.templates.stop import StopWordsCriteria
from swift.tuners.model import SwiftModel


class Whole:
    """An engine that answers batches from beginning to end.

    Args:
        model: a causal language model, with or without tuners.
        slots: how many rows a batch has.
    """

    def __init__(self, model: Any, slots: int = 16) -> None:
        self.model, self.slots, self.turning = model, slots, angles_by_length(model)
        self._active = model.active_adapters if isinstance(model, SwiftModel) else None

    def run(self, requests: Iterable[Request]) -> Iterator[Generation]:
        """The finished answers, in batches whose rows have the same limit and end."""
        source = iter(requests)
        while batch := list(islice(source, self.slots)):
            kinds: dict[Any, list[Request]] = {}
            for request in batch:
                drawn = request.seed is not None and request.config.do_sample
                alone = id(request) if drawn or self.turning else None
                limit = request.config.max_new_tokens
                kinds.setdefault((limit, tuple(request.reader.ending_texts), alone, request.adapter), []).append(
                    request
                )
            for alike in kinds.values():
                for request, ids in zip(alike, self._generate(alike), strict=True):
                    yield _finished(request, ids)

    def stream(self, request: Request, stop: threading.Event) -> Iterator[Generation]:
        """The answer as it grows; `generate` runs in a thread and ends when `stop` is set or this iterator closed."""
        if (request.config.num_beams or 1) > 1:
            beams = request.config.num_beams
            raise UsageError("USAGE-02", f"beam search (num_beams={beams}) cannot stream", fix="do not stream")
        ids, closed, growing = _Ids(), threading.Event(), Generation(request)
        with ThreadPoolExecutor(1, "generate") as pool:
            work = pool.submit(self._generate, [request], StopWhen(closed), StopWhen(stop), streamer=ids)
            work.add_done_callback(lambda _: ids.queue.put(None))
            try:
                while (new := ids.queue.get()) is not None:
                    growing.ids.append(new)
                    yield growing
            finally:
                closed.set()
        (found,) = work.result()
        ended = _finished(request, found)
        growing.ids, growing.finish_reason = ended.ids, ended.finish_reason
        if stop.is_set() and growing.finish_reason == "length":
            growing.finish_reason = "stopped"
        yield growing

    @torch.inference_mode()
    def _generate(self, batch: Sequence[Request], *criteria: StoppingCriteria, **options: Any) -> list[list[int]]:
        """New ids of each prompt, the end of the turn and padding included."""
        self.model.eval()
        if self._active is not None and self.model.active_adapters != self._active:
            self.model.set_active_adapters(sorted(self._active))
        first, prompts = batch[0], [request.prompt_ids for request in batch]
        config, reader, width = copy.copy(first.config), first.reader, max(map(len, prompts))
        config.prompt_lookup_num_tokens = None  # `generate` guesses for single rows alone, and not with every memory
        pads = [width - len(prompt) for prompt in prompts]
        input_ids = [[config.pad_token_id] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
        attention_mask = [[0] * pad + [1] * (width - pad) for pad in pads]
        words = [StopWordsCriteria(reader.tokenizer, reader.ending_texts, width)] if reader.ending_texts else []
        if first.adapter:
            options["adapter_names"] = [first.adapter] * len(batch)
            options["num_beams"] = config.num_beams or 1  # PEFT repeats the names as often, and looks nowhere else
        seed, beams = first.seed if config.do_sample else None, (config.num_beams or 1) > 1
        if seed is not None and not beams:
            options["logits_processor"] = LogitsProcessorList([SeededDraw(first)])
            config = copy.deepcopy(config)
            config.do_sample, config.temperature, config.top_p, config.top_k, config.min_p = False, 1.0, 1.0, 50, None
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None and beams):
            if seed is not None and beams:  # beams are drawn together, by transformers
                torch.manual_seed(seed)
            output = self.model.generate(
                input_ids=torch.tensor(input_ids, device=device),
                attention_mask=torch.tensor(attention_mask, device=device),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([*words, *criteria]),
                **options,
            )
        return output[:, width:].tolist()


class SeededDraw(LogitsProcessor):
    """Draws each token of one row from the request's own seed, and leaves only that one to choose."""

    def __init__(self, request: Request) -> None:
        self.sampler = Sampler(request.config, request.prompt_ids, request.seed)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (1, V) that are 0 at the token drawn and -inf elsewhere."""
        chosen = torch.full_like(scores, -torch.inf)
        chosen[0, self.sampler.draw(scores[0])] = 0.0
        return chosen  # type: ignore[return-value]


class StopWhen(StoppingCriteria):
    """Ends every row once `event` is set: whoever reads the answer went away."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """Which rows are done, (B,)."""
        shape = (input_ids.shape[0],)
        return torch.full(shape, self.event.is_set(), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


class _Ids(BaseStreamer):
    """Hands each new id of the only row to a queue; None comes after the last."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.queue.put(int(value.flatten()[-1]))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing yet: the last is told when `generate` has returned or failed."""


def _finished(request: Request, ids: list[int]) -> Generation:
    reader = request.reader
    return Generation(request, ids[: reader.num_ids(ids)], finish_reason="stop" if reader.stopped(ids) else "length")

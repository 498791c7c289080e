"""Texts as vectors: a model's last hidden states, brought together as its sentence-transformers files say.

Letters in names: B rows, T tokens, D size of a vector.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swift.errors import DataError, TemporaryError, UnavailableError
from swift.models.files import read_json

MODULES, POOLING = "modules.json", "config.json"
OPTIONS = "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
TOKENS_OF_A_PASS = 8192


@dataclass(frozen=True)
class Recipe:
    """What makes a vector out of hidden states.

    Args:
        pooling: keys of `POOLINGS`; several are put behind each other.
        normalize: vectors have the length 1.
        max_length: of a text in tokens; None is the model's own.
        prompt: what stands before every text.
    """

    pooling: tuple[str, ...]
    normalize: bool = False
    max_length: int | None = None
    prompt: str = ""


def _mean(states_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    return (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)


def _mean_sqrt(states_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    return (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).sqrt()


def _weighted_mean(states_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    weights_BT1 = mask_BT1 * mask_BT1.cumsum(1)
    return (states_BTD * weights_BT1).sum(1) / weights_BT1.sum(1)


def _max(states_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    return states_BTD.masked_fill(mask_BT1 == 0, -torch.inf).max(1).values


def _first(states_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    return states_BTD[:, 0]


def _last(states_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
    last_B = mask_BT1[:, :, 0].sum(1).long() - 1
    return states_BTD[torch.arange(len(states_BTD), device=states_BTD.device), last_B]


# Rows are padded on the right. Names as in https://sbert.net/docs/package_reference/sentence_transformer/modules.html
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def gives_vectors(directory: Path) -> bool:
    """Whether a model's directory says how its hidden states become a vector."""
    return (directory / MODULES).is_file()


def read_recipe(directory: Path) -> Recipe:
    """What the files of sentence-transformers in a model's directory say.

    Raises:
        DataError: they are damaged, or name a step that is not one of ours.
    """
    modules = _read(directory / MODULES)
    names = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or names[2:] not in ([], ["Normalize"]):
        what = f"{directory / MODULES} has the steps {', '.join(names) or 'none'}"
        raise DataError("MODEL-02", what, why="known are Transformer, Pooling and Normalize, in this order")
    place = directory / str(modules[1].get("path", "")) / POOLING
    if not place.resolve().is_relative_to(directory.resolve()):
        raise DataError("MODEL-01", f"{directory / MODULES} names a file outside of its directory")
    settings = _found(place)
    said = settings.get("pooling_mode")
    chosen = tuple([said] if isinstance(said, str) else said or ())
    chosen = chosen or tuple(name for key, name in OLD_NAMES.items() if settings.get(key))
    if not chosen or not set(chosen) <= POOLINGS.keys():
        what = f"{place} asks for {', '.join(map(str, chosen)) or 'nothing'}"
        raise DataError("MODEL-02", what, why=f"known are {', '.join(POOLINGS)}")
    options, prompts = _found(directory / OPTIONS), _found(directory / PROMPTS)
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name")) or ""
    if prompt and settings.get("include_prompt") is False:
        raise DataError("MODEL-02", f"{place} leaves the prompt out of the pooling", why="a prompt counts here")
    return Recipe(chosen, len(names) == 3, options.get("max_seq_length"), prompt)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError("MODEL-01", f"{path} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise DataError("MODEL-01", f"{path} is not a list of modules")
    return found


def _found(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


class Embedder:
    """Gives vectors.

    Args:
        model: whose first output is its last hidden states, (B, T, D).
        tokenizer: of the model.
        recipe: what becomes of them.
        limit: tokens that the model can read; None is any number.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe, limit: int | None = None) -> None:
        self.model, self.tokenizer, self.recipe = model.eval(), tokenizer, recipe
        lengths = [length for length in (recipe.max_length, limit) if length]
        self.max_length = min(lengths, default=None)

    def ids(self, text: str) -> list[int]:
        """A text as the model reads it, with what stands before every text."""
        return self.tokenizer(self.recipe.prompt + text).input_ids

    @torch.inference_mode()
    def vectors(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Vectors (B, D) in float32, on the CPU, of rows of ids."""
        width, device = max(map(len, rows)), self.model.device
        ids = [[*row, *[self.tokenizer.pad_token_id or 0] * (width - len(row))] for row in rows]
        mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        output = self.model(input_ids=torch.tensor(ids, device=device), attention_mask=mask_BT)
        states_BTD, mask_BT1 = output.last_hidden_state.float(), mask_BT[:, :, None].float()
        vectors_BD = torch.cat([POOLINGS[name](states_BTD, mask_BT1) for name in self.recipe.pooling], 1)
        return shortened(vectors_BD, normalize=self.recipe.normalize).cpu()


def shortened(vectors_BD: Tensor, size: int | None = None, normalize: bool = True) -> Tensor:
    """The first `size` numbers of each vector, brought to the length 1 again."""
    vectors_BD = vectors_BD[:, :size]
    return torch.nn.functional.normalize(vectors_BD, dim=1) if normalize else vectors_BD


Job = tuple[list[int], "Future[Tensor]"]


class EmbeddingService:
    """An embedder that any thread may ask; texts of all who ask are read together.

    Args:
        embedder: does the work, in a thread of its own.
        most: texts in a pass.
        max_waiting: texts that may wait; None is any number.
    """

    def __init__(self, embedder: Embedder, most: int = 64, max_waiting: int | None = None) -> None:
        self.embedder, self.most, self.max_waiting = embedder, most, max_waiting
        self.num_running = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: Job | None = None  # taken from those who wait, for the next pass
        self._closed, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._work, name="embeddings", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Texts that wait."""
        return self._jobs.qsize() + (self._held is not None)

    def submit(self, rows: Sequence[list[int]]) -> list[Future[Tensor]]:
        """The vector (D,) of each row, once it is there; one that is cancelled before is not computed.

        Raises:
            TemporaryError: too many wait.
            UnavailableError: the service was closed.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError("SERVER-04", "the engine was closed")
            if self.max_waiting is not None and self.num_waiting >= self.max_waiting:
                raise TemporaryError("SERVER-05", f"{self.max_waiting} texts wait already", fix="ask again later")
            futures: list[Future[Tensor]] = [Future() for _ in rows]
            for job in zip(rows, futures, strict=True):
                self._jobs.put(job)
        return futures

    def cancel_all(self) -> None:
        """Compute nothing more of what waits."""
        if (held := self._held) is not None:
            held[1].cancel()
        with contextlib.suppress(queue.Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job[1].cancel()
            self._jobs.put(None)  # the end, which is for the thread that works

    def close(self) -> None:
        """End with the pass at work."""
        with self._lock:
            self._closed = True
            self._jobs.put(None)
        self.cancel_all()
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._batch()) is not None:
            live = [(row, future) for row, future in batch if future.set_running_or_notify_cancel()]
            self.num_running = len(live)
            if not live:
                continue
            try:
                vectors_BD = self.embedder.vectors([row for row, _ in live])
            except Exception as error:  # whoever asked for it gets it
                for _, future in live:
                    future.set_exception(error)
            else:
                for (_, future), vector_D in zip(live, vectors_BD, strict=True):
                    future.set_result(vector_D)
            self.num_running = 0

    def _batch(self) -> list[Job] | None:
        """Those that are read together: all that wait, as far as they fit into one pass; None at the end."""
        first, self._held = self._held or self._jobs.get(), None
        if first is None:
            return None
        batch, widest = [first], len(first[0])
        with contextlib.suppress(queue.Empty):
            while len(batch) < self.most:
                job = self._jobs.get_nowait()
                if job is None:
                    self._jobs.put(None)
                    break
                widest = max(widest, len(job[0]))
                if widest * (len(batch) + 1) > TOKENS_OF_A_PASS:
                    self._held = job
                    break
                batch.append(job)
        return batch

"""What every template does: rows to ids and labels, with one rule for what is supervised.

A conversation is laid out as parts that are shown to the model and parts that it must say. A reply is supervised, and
so is its end: where a shown part follows, its first labels are the end of the turn, whatever the text shows there,
unless that begins with another token that ends a turn; where nothing follows, the end is added.

What a reply weighs (`weights.py`) decides which labels are masked, and `loss_scale` where weights other than 0 and 1
come in; it never changes an id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError, DataError
from swift.log import get_logger
from swift.templates import stop
from swift.templates.collate import data_collator
from swift.templates.conversation import Talk, read_talk
from swift.templates.tokens import added_texts, any_of, safe_decode, special_texts, tokenise
from swift.templates.tools import ToolFormat
from swift.templates.weights import LossScale

logger = get_logger()
MASKED = -100
STRATEGIES = ("delete", "truncation_left", "split")
T = TypeVar("T")
U = TypeVar("U")


@dataclass(slots=True)
class Shown:
    """Ids that the model reads."""

    ids: list[int]


@dataclass(slots=True)
class Said:
    """Ids that the model must write.

    Attributes:
        ids: the reply.
        ended: whether the end of the turn is among them, or none belongs here because the reply goes on.
        weight: how much it is learnt; 0 is not at all.
        weights: the same for every id, where they differ; the end of the turn still weighs `weight`.
    """

    ids: list[int]
    ended: bool = False
    weight: float = 1.0
    weights: list[float] | None = None


@dataclass(slots=True)
class Laid:
    """Ids with their labels, and the weight of each where weights other than 0 and 1 came in; of equal length."""

    ids: list[int]
    labels: list[int]
    scales: list[float] | None = None


class Template(ABC):
    """Turns rows into ids and labels, and says where a reply ends.

    Args:
        name: of the registry row, or "auto".
        tokenizer: of the model.
        end_text: the text that ends a reply.
        end_ids: its ids: supervised after every reply.
        lead: the text that the template, and so the model, writes between the prompt and a reply.
        marks: texts that structure a conversation, besides the tokenizer's special tokens.
        stop_texts: further texts where inference stops.
        default_system: the system text of a row that says none; None is no text.
        max_length: in tokens; None is no limit.
        truncation_strategy: a longer row is dropped ("delete"), loses its beginning ("truncation_left"), or stays
            whole, to be cut into pieces later ("split").
        generation: plain completion instead of a conversation.
        loss_scale: what is learnt of a conversation.
        call_end: the token that ends a reply which calls a tool, where that is another; "" where it is not.

    Attributes:
        call_ends: the id of `call_end`, if any.
        stop_ids: ids that end a reply, for `eos_token_id`.
        stop_words: texts that end a reply where no single id does.
        pause: what a reply that calls a tool ends with where it goes on after the answer; "" where its turn ends.
    """

    tools: ToolFormat | None
    pause = ""

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_text: str,
        end_ids: list[int],
        lead: str = "",
        marks: Iterable[str] = (),
        stop_texts: Iterable[str] = (),
        default_system: str | None = None,
        max_length: int | None = None,
        truncation_strategy: str = "delete",
        generation: bool = False,
        loss_scale: LossScale | None = None,
        call_end: str = "",
    ) -> None:
        if truncation_strategy not in STRATEGIES:
            raise ConfigError(
                "CONFIG-02",
                f"--truncation_strategy {truncation_strategy} is not known",
                fix=f"--truncation_strategy {'|'.join(STRATEGIES)}",
            )
        self.name, self.tokenizer, self.generation = name, tokenizer, generation
        self.end_text, self.end_ids, self.lead = end_text, end_ids, lead
        self.default_system, self.max_length = default_system, max_length
        self.truncation_strategy = truncation_strategy
        added = added_texts(tokenizer)
        found = any_of(added)
        frame = {mark for text in (end_text, *marks) for mark in (found.findall(text) if found else ())}
        self._not_for_users = any_of(special_texts(tokenizer) | frame)
        eos = [str(tokenizer.eos_token)] if tokenizer.eos_token is not None else []
        self._not_for_replies = None if generation else any_of([*(found.findall(end_text) if found else ()), *eos])
        self.loss_scale = loss_scale or LossScale()
        self.call_ends = stop.single_ids(tokenizer, [call_end])
        self.stop_ids, self.stop_words = stop.stops(
            tokenizer, end_text, end_ids, [*stop_texts, *filter(None, [call_end])]
        )

    @property
    def tools_name(self) -> str | None:
        """The name of the format in which tools are written; None is the tokenizer's own way."""
        return None if self.tools is None else self.tools.name

    @property
    def ends(self) -> list[str]:
        """The texts that end a turn."""
        return [self.end_text, *(str(self.tokenizer.decode([i])) for i in self.call_ends)]

    @abstractmethod
    def _encode(self, conversations: Sequence[Talk]) -> list[Laid | DataError]:
        """Ids and labels of each conversation, in one tokenizer call; or why it does not fit this template."""

    def encode(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The row as `{"input_ids", "labels"}` and what else the tokenizer needs to decode (nothing so far).

        Where weights other than 0 and 1 come in, `"loss_scale"` has that of every token; `"truncated"` is how many
        tokens were cut off a longer row.

        Args:
            row: `{query, response, history, system}` or `{messages}`, and `tools` where there are any. Without a last
                reply `labels` is None and the ids end where the reply begins.

        Returns:
            `({}, {})` for a row that is too long and to be dropped.

        Raises:
            DataError: the row does not fit the template.
        """
        return self.encode_batch([row])[0], {}

    def encode_batch(
        self, rows: Sequence[Mapping[str, Any]], errors: list[tuple[int, DataError]] | None = None
    ) -> list[dict[str, Any]]:
        """Many rows at once, each exactly as `encode` gives it, with one tokenizer call.

        Args:
            rows: as for `encode`.
            errors: where given, a row that does not fit gives `{}` and adds (its index, why) here.

        Raises:
            DataError: a row does not fit and `errors` is not given.
        """
        conversations = attempt(read_talk, rows)
        good = [c for c in conversations if not isinstance(c, DataError)]
        encoded = iter([self._fit(*pair) for pair in zip(good, self._encode(good), strict=True)])
        results: list[dict[str, Any]] = []
        for k, conversation in enumerate(conversations):
            result = conversation if isinstance(conversation, DataError) else next(encoded)
            if isinstance(result, DataError):
                if errors is None:
                    raise result
                errors.append((k, result))
                result = {}
            results.append(result)
        return results

    def _fit(self, conversation: Talk, laid: Laid | DataError) -> dict[str, Any] | DataError:
        """What `encode` gives for a conversation, `{}` when it is too long."""
        if isinstance(laid, DataError):
            return laid
        cut: dict[str, int] = {}
        too_long = self.max_length is not None and len(laid.ids) > self.max_length
        if self.max_length and too_long and self.truncation_strategy != "split":
            if self.truncation_strategy == "delete":
                return {}
            kept = slice(-self.max_length, None)
            cut = {"truncated": len(laid.ids) - self.max_length}
            laid = Laid(laid.ids[kept], laid.labels[kept], laid.scales and laid.scales[kept])
        if conversation.messages[-1]["role"] != "assistant":
            return {"input_ids": laid.ids, "labels": None, **cut}
        if laid.scales is None:
            return {"input_ids": laid.ids, "labels": laid.labels, **cut}
        return {"input_ids": laid.ids, "labels": laid.labels, "loss_scale": laid.scales, **cut}

    def lay(self, parts: Iterable[Shown | Said]) -> Laid:
        """Ids, labels and weights of the parts in order: the one place where labels are made.

        Raises:
            DataError: less is shown between two replies than the end of a turn takes.
        """
        ids: list[int] = []
        runs: list[tuple[list[int], float | list[float]]] = []  # labels, and the weight of all or of each
        shown = 1.0 if self.loss_scale.everything else 0.0
        owed: list[int] = []
        owed_weight = 1.0
        for part in parts:
            if isinstance(part, Said):
                if owed:
                    raise DataError("DATA-06", f"template {self.name!r} shows nothing between two replies")
                runs.append((part.ids, part.weights or part.weight))
                owed, owed_weight = [] if part.ended else self.end_ids, part.weight
            elif part.ids:
                if part.ids[0] in self.call_ends:
                    owed = part.ids[: len(owed) and 1]
                if len(part.ids) < len(owed):
                    raise DataError("DATA-06", f"template {self.name!r} has no room for the end of a turn")
                runs += [(owed, owed_weight), (part.ids[len(owed) :], shown)]
                owed = []
            ids += part.ids
        runs.append((owed, owed_weight))
        return self._weighed(ids + owed, runs)

    def _weighed(self, ids: list[int], runs: list[tuple[list[int], float | list[float]]]) -> Laid:
        """The ids with the labels of `runs`: masked where the weight is 0, weighed where it is neither 0 nor 1."""
        laid, plain = Laid(ids, []), self.loss_scale.rules is None
        for labels, weight in runs:
            if isinstance(weight, list):
                laid.labels += [label if one else MASKED for label, one in zip(labels, weight, strict=True)]
                plain = plain and {0.0, 1.0}.issuperset(weight)
            else:
                laid.labels += labels if weight else [MASKED] * len(labels)
                plain = plain and (weight in (0.0, 1.0) or not labels)
        if not plain:
            each = (weight if isinstance(weight, list) else [weight] * len(labels) for labels, weight in runs)
            laid.scales = [one for weights in each for one in weights]
        return laid

    def describe_end(self) -> str:
        """The line that is printed at the start: what ends a turn."""
        ids = ", ".join(map(str, self.end_ids))
        noun = "id" if len(self.end_ids) == 1 else "ids"
        return f"end of turn: {self.end_text!r} ({noun} {ids}), supervised, and where inference stops"

    def show(self, inputs: Mapping[str, Any]) -> str:
        """Encoded inputs as the model meets them: all of the text, then with what is not supervised masked."""
        shown = f"[INPUT] {safe_decode(self.tokenizer, inputs['input_ids'])}"
        if inputs["labels"] is None:
            return shown
        return f"{shown}\n[LABELS] {safe_decode(self.tokenizer, inputs['labels'])}"

    def data_collator(self, batch: Sequence[Mapping[str, Any]], padding_to: int | None = None) -> dict[str, Any]:
        """A right-padded batch; see `collate.data_collator`."""
        return data_collator(batch, self.tokenizer, padding_to)

    def get_generate_ids(self, generate_ids: Any, token_len: int) -> list[int]:
        """The ids of the first sequence after its prompt of `token_len` tokens."""
        return stop.get_generate_ids(generate_ids, token_len)

    def generate_ids_to_response(self, generate_ids: Sequence[int], is_finished: bool = True, **kwargs: Any) -> str:
        """The text of a reply without its end; see `stop.generate_ids_to_response`."""
        return stop.generate_ids_to_response(self, generate_ids, is_finished, **kwargs)

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        return tokenise(self.tokenizer, texts)


def attempt(function: Callable[[T], U], arguments: Iterable[T]) -> list[U | DataError]:
    """What `function` gives for each argument, or the error that it raises."""
    results: list[U | DataError] = []
    for argument in arguments:
        try:
            results.append(function(argument))
        except DataError as error:
            results.append(error)
    return results

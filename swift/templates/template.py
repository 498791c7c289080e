"""`get_template`, and the template that a registry row describes.

Neighbouring texts of equal status become one text before they are tokenised, because where a text is split decides its
tokens; training and inference go through the same lines, so they agree on every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError, DataError
from swift.templates import TEMPLATES, Piece, TemplateRecord
from swift.templates.atoms import SYSTEM, Atom, Place, bind, ids_of, text_of, without_piece, without_place
from swift.templates.auto import AutoTemplate, has_chat_template
from swift.templates.conversation import Message, split_system
from swift.templates.encoding import MASKED, Labelled, Said, Shown, Template, attempt, logger
from swift.templates.thinking import opened, plain_lead, trimmed, wording
from swift.templates.tokens import cuts, split

AUTO = "auto"
ANOTHER = "choose another --template_type"


def get_template(
    template_type: str,
    tokenizer: PreTrainedTokenizerBase,
    default_system: str | None = None,
    max_length: int | None = None,
    truncation_strategy: str = "delete",
    **_: Any,
) -> Template:
    """The template of that name for this tokenizer.

    Args:
        template_type: a row of `TEMPLATES`, or "auto" for the tokenizer's own chat template.
        tokenizer: of the model.
        default_system: the system text of rows that say none; None is the template's own, "" is none.
        max_length: in tokens; None is no limit.
        truncation_strategy: a longer row is dropped ("delete") or loses its beginning ("truncation_left").

    Raises:
        UnknownNameError: no template has this name.
        ConfigError: the tokenizer lacks a token that the template needs.
        DataError: the tokenizer's own chat template cannot be used.
    """
    if template_type != AUTO:
        return RecordTemplate(TEMPLATES[template_type], tokenizer, default_system, max_length, truncation_strategy)
    if has_chat_template(tokenizer):
        return AutoTemplate(tokenizer, default_system, max_length, truncation_strategy)
    logger.warning("the tokenizer has no chat template: using --template_type default")
    return RecordTemplate(TEMPLATES["default"], tokenizer, default_system, max_length, truncation_strategy)


@dataclass(frozen=True, slots=True)
class Round:
    """A question and its reply; `reply` None is still to come."""

    query: str
    reply: str | None
    from_tool: bool = False


class Run:
    """Texts and ids of one status, in order; texts that touch are one text."""

    def __init__(self, said: bool) -> None:
        self.said, self.units = said, list[str | list[int]]()

    def text(self, *parts: str) -> None:
        """Add text; between `parts` the tokenizer must not look across."""
        if self.units and isinstance(self.units[-1], str):
            self.units[-1] += parts[0]
            parts = parts[1:]
        self.units += parts

    def ids(self, ids: list[int]) -> None:
        """Add ids."""
        self.units.append(ids)


class RecordTemplate(Template):
    """A registry row, bound to a tokenizer."""

    def __init__(
        self,
        record: TemplateRecord,
        tokenizer: PreTrainedTokenizerBase,
        default_system: str | None = None,
        max_length: int | None = None,
        truncation_strategy: str = "delete",
    ) -> None:
        self.record = record

        def bound(pieces: Iterable[Piece]) -> list[Atom]:
            return bind(pieces, tokenizer, record.name)

        suffix, prompt = bound(record.suffix), bound(record.prompt)
        tool_prompt = record.prompt if record.tool_prompt is None else record.tool_prompt
        self._prefix = bound(without_place(record.prefix))
        self._system_prefix = bound(record.prefix if record.system_prefix is None else record.system_prefix)
        self._separator = bound(record.chat_sep or ())
        self._prompt, self._last_prompt = bound(without_piece(record.prompt)), prompt
        self._tool_prompt, self._last_tool_prompt = bound(without_piece(tool_prompt)), bound(tool_prompt)
        self.takes_system = SYSTEM in (*self._system_prefix, *prompt)
        self._bos = _automatic_bos(tokenizer) if record.auto_add_bos else None
        fixed = (*self._prefix, *self._system_prefix, *prompt, *self._tool_prompt, *self._separator)
        super().__init__(
            record.name,
            tokenizer,
            end_text="".join(text_of(atom, tokenizer) for atom in suffix),
            end_ids=[i for atom in suffix for i in ids_of(atom, tokenizer)],
            lead=plain_lead(record),
            marks=[text_of(atom, tokenizer) for atom in fixed],
            stop_texts=record.stop,
            default_system=(record.default_system if default_system is None else default_system) or None,
            max_length=max_length,
            truncation_strategy=truncation_strategy,
            generation=record.generation,
        )
        if default_system and not self.takes_system:
            raise ConfigError("CONFIG-02", self._no_system("--system says"), fix=ANOTHER)
        if self.end_ids[-1] not in {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}:
            logger.warning(
                f"the end of turn {self.end_text!r} of template {self.name!r} is ordinary text for this tokenizer: "
                "the template may belong to another model"
            )

    def _encode(self, conversations: Sequence[list[Message]]) -> list[Labelled | DataError]:
        laid = attempt(self._runs, conversations)
        runs = [run for row in laid if not isinstance(row, DataError) for run in row]
        ids = iter(self._tokenise([unit for run in runs for unit in run.units if isinstance(unit, str)]))
        return attempt(partial(self._finish, ids=ids), laid)

    def _finish(self, row: list[Run] | DataError, ids: Iterator[list[int]]) -> Labelled:
        if isinstance(row, DataError):
            raise row
        # every part is made before `lay` can refuse the row, so that the next row finds its own ids
        inputs, labels = self.lay([_part(run, ids) for run in row])
        if self._bos is None or inputs[:1] == [self._bos]:
            return inputs, labels
        return [self._bos, *inputs], [MASKED, *labels]

    def _runs(self, messages: list[Message]) -> list[Run]:
        """The conversation as runs, by turns shown and said.

        Raises:
            DataError: it has a system text or several rounds and the format has none, or roles out of order.
        """
        system, rest = split_system(trimmed(messages, self.record.trim))
        if system and not self.takes_system:
            raise DataError("DATA-06", self._no_system("the conversation has"), fix=ANOTHER)
        system = self.default_system if system is None else system
        rounds = list(_rounds(rest))
        if len(rounds) > 1 and self.record.chat_sep is None:
            raise DataError(
                "DATA-06", f"template {self.name!r} has a single round, the conversation {len(rounds)}", fix=ANOTHER
            )
        asked = max((k for k, turn in enumerate(rounds) if not turn.from_tool), default=0)
        runs = [Run(said=False)]
        self._fill(runs[0], self._system_prefix if system else self._prefix, {"SYSTEM": system or ""})
        for k, turn in enumerate(rounds):
            self._show(runs[-1], turn, k, system if k == len(rounds) - 1 else None)
            if turn.reply is None:
                runs[-1].text(opened(self.record))
            else:
                shown, said = wording(self.record, turn.reply, k >= asked, k == len(rounds) - 1)
                runs[-1].text(shown)
                reply = Run(said=True)
                for text, own in said:
                    reply.text(*([text] if own else split(text, cuts(text, self._not_for_replies))))
                runs += [reply, Run(said=False)]
                self._fill(runs[-1], self._separator if k < len(rounds) - 1 else [], {})
        return runs

    def _show(self, run: Run, turn: Round, k: int, system: str | None) -> None:
        """Show the question of round `k`, with `system` where the format puts that into the last round."""
        if turn.from_tool:
            prompt = self._last_tool_prompt if system else self._tool_prompt
        else:
            prompt = self._last_prompt if system else self._prompt
        self._fill(run, prompt, {"QUERY": turn.query, "ROUND0": str(k), "ROUND1": str(k + 1), "SYSTEM": system or ""})

    def _fill(self, run: Run, atoms: list[Atom], texts: dict[str, str]) -> None:
        for atom in atoms:
            if isinstance(atom, Place):
                text = texts[atom.name]
                run.text(*split(text, cuts(text, self._not_for_users)))
            elif isinstance(atom, str):
                run.text(atom)
            else:
                run.ids(atom)

    def _no_system(self, who: str) -> str:
        return f"{who} a system text, and template {self.name!r} has no place for one"


def _part(run: Run, ids: Iterator[list[int]]) -> Shown | Said:
    joined = [i for unit in run.units for i in (next(ids) if isinstance(unit, str) else unit)]
    return Said(joined) if run.said else Shown(joined)


def _rounds(messages: list[Message]) -> Iterator[Round]:
    """Questions with their replies; the answers of several tools at once are one question, line by line.

    Raises:
        DataError: two messages in a row come from the user, or two from the assistant.
    """
    asked: Round | None = None
    last = "the start"
    for k, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == last != "tool" or (last, role) in (("user", "tool"), ("tool", "user")):
            raise DataError(
                "DATA-06", f"message {k} is from the {role} and follows one from the {last}", fix="join the two"
            )
        if role == "assistant":
            yield Round(asked.query, content, asked.from_tool) if asked else Round("", content)
            asked = None
        else:
            asked = Round(f"{asked.query}\n{content}" if asked else content, None, role == "tool")
        last = role
    if asked:
        yield asked


def _automatic_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that this tokenizer itself puts before every text; None when it puts none."""
    ids = tokenizer("")["input_ids"]
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None

"""`get_template`, and the template that a registry row describes.

Neighbouring texts of equal status become one text before they are tokenised, because where a text is split decides its
tokens; training and inference go through the same lines, so they agree on every token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError, DataError
from swift.templates import TEMPLATES, Piece, TemplateRecord
from swift.templates.atoms import SYSTEM, Atom, Place, bind, ids_of, text_of, without_piece, without_place
from swift.templates.auto import AutoTemplate, has_chat_template
from swift.templates.conversation import Talk, split_system
from swift.templates.encoding import MASKED, Laid, Template, attempt, logger
from swift.templates.jinja import Pieces
from swift.templates.replies import unused
from swift.templates.rounds import Round, Run, apart, part_of, rounds_of
from swift.templates.thinking import Text, opened, plain_lead, trimmed, wording
from swift.templates.tokens import added_texts, any_of, cuts, split
from swift.templates.tools import OBSERVATION, ToolFormat, find_format, spell
from swift.templates.weights import LossScale, find_loss_scale

AUTO = "auto"
ANOTHER = "choose another --template_type"


def get_template(
    template_type: str,
    tokenizer: PreTrainedTokenizerBase,
    default_system: str | None = None,
    max_length: int | None = None,
    truncation_strategy: str = "delete",
    *,
    loss_scale: str = "default",
    tools_prompt: str | None = None,
    **_: Any,
) -> Template:
    """The template of that name for this tokenizer.

    Args:
        template_type: a row of `TEMPLATES`, or "auto" for the tokenizer's own chat template.
        tokenizer: of the model.
        default_system: the system text of rows that say none; None is the template's own, "" is none.
        max_length: in tokens; None is no limit.
        truncation_strategy: a longer row is dropped ("delete"), loses its beginning ("truncation_left"), or stays
            whole, to be cut into pieces later ("split").
        loss_scale: what is learnt: a name of `weights.CHOICES`, of `weights.RULES`, or a JSON file of rules.
        tools_prompt: how tools are written: a name of `tools.FORMATS`; None is as the model's family does.

    Raises:
        UnknownNameError: no template, loss scale or tool format has this name.
        ConfigError: the tokenizer lacks a token that the template needs.
        DataError: the tokenizer's own chat template cannot be used.
    """
    tools = None if tools_prompt is None else find_format(tools_prompt)
    common = (default_system, max_length, truncation_strategy, find_loss_scale(loss_scale), tools)
    if template_type != AUTO:
        return RecordTemplate(TEMPLATES[template_type], tokenizer, *common)
    if has_chat_template(tokenizer):
        return AutoTemplate(tokenizer, *common)
    logger.warning("the tokenizer has no chat template: using --template_type default")
    return RecordTemplate(TEMPLATES["default"], tokenizer, *common)


class RecordTemplate(Template):
    """A registry row, bound to a tokenizer."""

    def __init__(
        self,
        record: TemplateRecord,
        tokenizer: PreTrainedTokenizerBase,
        default_system: str | None = None,
        max_length: int | None = None,
        truncation_strategy: str = "delete",
        loss_scale: LossScale | None = None,
        tools: ToolFormat | None = None,
    ) -> None:
        self.record = record
        self.tools = self._style = tools or find_format(record.tools)
        self.pause = OBSERVATION if self._style.goes_on else ""

        def bound(pieces: Iterable[Piece]) -> list[Atom]:
            return bind(pieces, tokenizer, record.name)

        suffix, prompt = bound(record.suffix), bound(record.prompt)
        tool_prompt = record.prompt if record.tool_prompt is None else record.tool_prompt
        self._prefix = bound(without_place(record.prefix))
        self._system_prefix = bound(record.prefix if record.system_prefix is None else record.system_prefix)
        self._tools_prefix = None if record.tools_prefix is None else bound(record.tools_prefix)
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
            loss_scale=loss_scale,
            call_end=self._find_call_end(tokenizer),
        )
        if default_system and not self.takes_system:
            raise ConfigError("CONFIG-02", self._no_system("--system says"), fix=ANOTHER)
        if self.end_ids[-1] not in {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}:
            logger.warning(
                f"the end of turn {self.end_text!r} of template {self.name!r} is ordinary text for this tokenizer: "
                "the template may belong to another model"
            )

    @property
    def pieces(self) -> Pieces:
        """What this row writes, as text."""

        def text(atoms: Iterable[Atom]) -> str:
            return "".join(
                f"{{{{{atom.name}}}}}" if isinstance(atom, Place) else text_of(atom, self.tokenizer) for atom in atoms
            )

        return Pieces(
            bos="" if self._bos is None else text_of([self._bos], self.tokenizer),
            prefix=text(self._prefix),
            system_prefix=text(self._system_prefix),
            default_system=self.default_system or "",
            prompt=text(self._prompt),
            last_prompt=text(self._last_prompt),
            tool_prompt=text(self._tool_prompt),
            last_tool_prompt=text(self._last_tool_prompt),
            lead=self.record.lead,
            separator=text(self._separator),
            suffix=self.end_text,
            trim=self.record.trim,
        )

    def _find_call_end(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The token that begins the answer of a tool right after a reply, where a question begins with another."""
        asked, answered = ("".join(text_of(atom, tokenizer) for atom in p) for p in (self._prompt, self._tool_prompt))
        added = any_of(added_texts(tokenizer))
        found = added.match(answered) if added and not self._separator else None
        return found[0] if found and not asked.startswith(found[0]) else ""

    def _encode(self, conversations: Sequence[Talk]) -> list[Laid | DataError]:
        laid = attempt(self._runs, conversations)
        runs = [run for row in laid if not isinstance(row, DataError) for run in row]
        ids = iter(self._tokenise([text for run in runs for text in run.texts]))
        return attempt(partial(self._finish, ids=ids), laid)

    def _finish(self, row: list[Run] | DataError, ids: Iterator[list[int]]) -> Laid:
        if isinstance(row, DataError):
            raise row
        # every part is made before `lay` can refuse the row, so that the next row finds its own ids
        laid = self.lay([part_of(run, ids) for run in row])
        if self._bos is None or laid.ids[:1] == [self._bos]:
            return laid
        return Laid([self._bos, *laid.ids], [MASKED, *laid.labels], laid.scales and [0.0, *laid.scales])

    def _runs(self, talk: Talk) -> list[Run]:
        """The conversation as runs, by turns shown and said.

        Raises:
            DataError: it has a system text or several rounds and the format has none, or roles out of order.
        """
        messages, goes_on, mark = talk.messages, False, ""
        if talk.uses_tools:
            mark = unused(json.dumps([talk.messages, talk.tools], ensure_ascii=False))
            goes_on, talk = self._style.goes_on, self._marked(talk, mark)
            messages = spell(talk, self._style, self.default_system, in_user=not self.takes_system)
        system, rest = split_system(trimmed(messages, self.record.trim))
        if system and not self.takes_system:
            raise DataError("DATA-06", self._no_system("the conversation has"), fix=ANOTHER)
        system = self.default_system if system is None else system
        rounds = list(rounds_of(rest, self.loss_scale.of_replies(rest), goes_on))
        if len(rounds) > 1 and self.record.chat_sep is None:
            raise DataError(
                "DATA-06", f"template {self.name!r} has a single round, the conversation {len(rounds)}", fix=ANOTHER
            )
        asked = max((k for k, turn in enumerate(rounds) if not turn.from_tool), default=0)
        runs = [Run(said=False)]
        self._fill(runs[0], self._head(system, bool(talk.tools)), {"SYSTEM": system or ""}, mark)
        for k, turn in enumerate(rounds):
            self._show(runs[-1], turn, k, system if k == len(rounds) - 1 else None, mark)
            self._answer(runs, turn, k >= asked, k == len(rounds) - 1, mark)
        return runs

    def _head(self, system: str | None, tools: bool) -> list[Atom]:
        """What stands before the first round."""
        own = tools and self._tools_prefix is not None and self._style.name == self.record.tools
        if own and (system or self.record.system_prefix is None):
            return self._tools_prefix or []
        return self._system_prefix if system else self._prefix

    def _answer(self, runs: list[Run], turn: Round, current: bool, last: bool, mark: str) -> None:
        """Add what the model says in a round, with what tools answer meanwhile, and what is shown after it."""
        texts = [*(step.said for step in turn.steps), *([] if turn.reply is None else [turn.reply])]
        if not texts:
            runs[-1].text(opened(self.record))
        for n, text in enumerate(texts):
            shown, said = wording(self.record, text, current, last) if n == 0 else ("", [(text, False)])
            runs[-1].text(shown)
            step = turn.steps[n] if n < len(turn.steps) else None
            weight = step.weight if step else turn.weight
            self._say(runs, said, turn.query, weight, mark=mark, goes_on=step is not None)
            if step:
                runs[-1].text(*apart(step.observed, self._not_for_users, mark))
        if turn.reply is not None and not last:
            self._fill(runs[-1], self._separator, {})

    def _marked(self, talk: Talk, mark: str) -> Talk:
        """The conversation with marks where no token may reach across, before tools are written into it."""

        def marked(value: Any, forbidden: re.Pattern[str] | None) -> Any:
            if isinstance(value, str):
                return mark.join(split(value, cuts(value, forbidden)))
            if isinstance(value, list):
                return [marked(item, forbidden) for item in value]
            if isinstance(value, dict):
                return {marked(key, forbidden): marked(item, forbidden) for key, item in value.items()}
            return value

        by_reply = {True: self._not_for_replies, False: self._not_for_users}
        messages = [marked(message, by_reply[message["role"] == "assistant"]) for message in talk.messages]
        return Talk(messages, marked(talk.tools, self._not_for_users))

    def _say(
        self, runs: list[Run], texts: Iterable[Text], query: str, weight: float, *, mark: str, goes_on: bool = False
    ) -> None:
        """Add a reply, and a run for what is shown after it."""
        reply = Run(True, weight, goes_on)
        for text, own in texts:
            reply.text(*([text] if own else apart(text, self._not_for_replies, mark)))
        pieces = self.loss_scale.pieces("".join(map(str, reply.units)), query)
        reply.pieces = [(end, weight * factor) for end, factor in pieces]
        runs += [reply, Run(False)]

    def _show(self, run: Run, turn: Round, k: int, system: str | None, mark: str) -> None:
        """Show the question of round `k`, with `system` where the format puts that into the last round."""
        if turn.from_tool:
            prompt = self._last_tool_prompt if system else self._tool_prompt
        else:
            prompt = self._last_prompt if system else self._prompt
        texts = {"QUERY": turn.query, "ROUND0": str(k), "ROUND1": str(k + 1), "SYSTEM": system or ""}
        self._fill(run, prompt, texts, mark)

    def _fill(self, run: Run, atoms: list[Atom], texts: dict[str, str], mark: str = "") -> None:
        for atom in atoms:
            if isinstance(atom, Place):
                text = texts[atom.name]
                run.text(*apart(text, self._not_for_users, mark))
            elif isinstance(atom, str):
                run.text(atom)
            else:
                run.ids(atom)

    def _no_system(self, who: str) -> str:
        return f"{who} a system text, and template {self.name!r} has no place for one"


def _automatic_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that this tokenizer itself puts before every text; None when it puts none."""
    ids = tokenizer("")["input_ids"]
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None

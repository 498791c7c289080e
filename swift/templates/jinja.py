"""Chat templates in Jinja: rendered within limits, read from a file, and written from a registry row.

transformers renders in Jinja's immutable sandbox. What that does not bound is bounded here: the size of the source, the
time, and the length of what comes out.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.meta
from transformers import PreTrainedTokenizerBase

from swift.errors import DataError, NotFoundError
from swift.templates.conversation import Message, Tool

MAX_SOURCE_BYTES = 64 * 1024
MAX_TEXT_CHARS = 16 * 1024 * 1024
PROBE_SECONDS, ROW_SECONDS = 10.0, 0.5
RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
FIX = "choose a --template_type"


def refuse(what: str, why: str = "") -> NoReturn:
    """Say that the chat template cannot be used.

    Raises:
        DataError: always.
    """
    raise DataError("DATA-06", what, why=why, fix=FIX)


def check_source(source: str) -> None:
    """Refuse a chat template that is longer than any honest one.

    Raises:
        DataError: it has more than 64 kB.
    """
    if len(source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        refuse(f"the chat template has more than {MAX_SOURCE_BYTES // 1024} kB")


def read_source(said: str | Path) -> str:
    """The chat template in a file.

    Raises:
        NotFoundError: there is no such file.
        DataError: it is not text, too long, or no Jinja.
    """
    path = Path(said).expanduser()
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"--chat_template {said} is not a file")
    if path.stat().st_size > MAX_SOURCE_BYTES:
        refuse(f"the chat template {path} has more than {MAX_SOURCE_BYTES // 1024} kB")
    try:
        source = path.read_text(encoding="utf-8")
        # only the syntax is looked at; `generation` is what transformers adds to it
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(source)
    except UnicodeDecodeError:
        refuse(f"the chat template {path} is not UTF-8 text")
    except jinja2.TemplateSyntaxError as error:
        refuse(f"{path}:{error.lineno}: {error.message}")
    return source


class _Generation(jinja2.ext.Extension):
    """Reads `{% generation %}` blocks."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> Any:
        """The block's statements."""
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def render(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], tools: Sequence[Tool] = (), prompt: bool = False
) -> str:
    """What the tokenizer's chat template makes of the messages, with the prompt for a reply where asked.

    Raises:
        DataError: it refuses them, or makes more than 16 million characters.
    """
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, tokenize=False, add_generation_prompt=prompt
        )
    except RENDER_ERRORS as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError("DATA-06", "the chat template refuses the conversation", why=why, fix=FIX) from error
    if len(text) > MAX_TEXT_CHARS:
        refuse(f"the chat template makes more than {MAX_TEXT_CHARS} characters")
    return str(text)


class _Late(BaseException):
    """Raised inside what takes too long; no template can catch it."""


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """End what takes longer with a DataError that says `what` took so long.

    A signal does so in the main thread, another thread elsewhere; neither can interrupt a single call into C.

    Raises:
        DataError: it took longer.
    """
    main = threading.current_thread() is threading.main_thread() and "SIGALRM" in signal.Signals.__members__
    try:
        with _alarm(seconds) if main else _watched(seconds):
            yield
    except _Late:
        refuse(f"the chat template takes more than {seconds:g} seconds for {what}")


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> NoReturn:
        raise _Late

    before = signal.signal(signal.SIGALRM, stop)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, every)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


@contextmanager
def _watched(seconds: float) -> Iterator[None]:
    thread, lock, done = ctypes.c_ulong(threading.get_ident()), threading.Lock(), threading.Event()

    def stop() -> None:
        with lock:
            if not done.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Late))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            done.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
        timer.cancel()


def names_in(source: str) -> set[str]:
    """Which of "tools" and "tool_calls" a chat template speaks of."""
    return {name for name in ("tools", "tool_calls") if name in source}


def write_source(
    *,
    bos: str,
    prefix: str,
    system_prefix: str,
    default_system: str | None,
    prompt: str,
    last_prompt: str,
    tool_prompt: str,
    last_tool_prompt: str,
    separator: str,
    suffix: str,
) -> str:
    """The chat template that writes what a registry row writes; places are `{{QUERY}}` and so on, as in the row.

    Args:
        bos: what stands before everything; "" for nothing.
        prefix: without a system text; `system_prefix` with one.
        system_prefix: see there.
        default_system: of a conversation that says none; None for none.
        prompt: a round up to its reply; `last_prompt` that of the last round, where the system text may stand.
        last_prompt: see there.
        tool_prompt: the same of what tools answered; `last_tool_prompt` in the last round.
        last_tool_prompt: see there.
        separator: between a reply and the next round.
        suffix: the end of a reply.
    """
    lines = [
        "{%- set system = " + _literal(default_system or "") + " -%}",
        "{%- set talk = messages -%}",
        "{%- if messages and messages[0]['role'] == 'system' -%}",
        "{%- set system = messages[0]['content'] -%}{%- set talk = messages[1:] -%}",
        "{%- endif -%}",
        "{%- set ns = namespace(round=0, last=0, asked='') -%}",
        "{%- for m in talk if m['role'] != 'assistant' -%}{%- set ns.last = m -%}{%- endfor -%}",
        *_shown(bos),
        "{%- if system -%}"
        + "".join(_shown(system_prefix))
        + "{%- else -%}"
        + "".join(_shown(prefix))
        + "{%- endif -%}",
        "{%- for m in talk -%}",
        "{%- if m['role'] == 'assistant' -%}",
        "{{- m['content'] -}}",
        "{%- set ns.round = ns.round + 1 -%}",
        "{%- if loop.last -%}"
        + "".join(_shown(suffix))
        + "{%- else -%}"
        + "".join(_shown(separator))
        + "{%- endif -%}",
        "{%- else -%}",
        "{%- set ns.asked = ns.asked + '\\n' + m['content'] if ns.asked and m['role'] == 'tool' else m['content'] -%}",
        "{%- if loop.last or loop.nextitem['role'] != m['role'] or m['role'] == 'user' -%}",
        "{%- set is_last = system and m is sameas ns.last -%}",
        "{%- if m['role'] == 'tool' -%}",
        *_either("is_last", last_tool_prompt, tool_prompt),
        "{%- else -%}",
        *_either("is_last", last_prompt, prompt),
        "{%- endif -%}",
        "{%- set ns.asked = '' -%}",
        "{%- endif -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
    ]
    return "\n".join(lines) + "\n"


def _either(condition: str, one: str, other: str) -> Iterable[str]:
    if one == other:
        return _shown(one)
    return [f"{{%- if {condition} -%}}", *_shown(one), "{%- else -%}", *_shown(other), "{%- endif -%}"]


PLACES = {
    "{{SYSTEM}}": "system",
    "{{QUERY}}": "ns.asked",
    "{{ROUND0}}": "(ns.round | string)",
    "{{ROUND1}}": "((ns.round + 1) | string)",
}


def _shown(text: str) -> list[str]:
    """Text with places, as an expression that writes it; [] for nothing."""
    parts: list[str] = []
    while text:
        found = min(((text.find(place), place) for place in PLACES if place in text), default=None)
        at, place = found or (len(text), "")
        parts += [_literal(text[:at])] if text[:at] else []
        parts += [PLACES[place]] if place else []
        text = text[at + len(place) :]
    return ["{{- " + " + ".join(parts) + " -}}"] if parts else []


def _literal(text: str) -> str:
    """A text as Jinja writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"

"""Chat templates in Jinja: rendered within limits, read from a file, and written from a registry row.

transformers renders in Jinja's immutable sandbox. What that does not bound is bounded here: the size of the source, the
time, the memory of the first conversations, and the length of what comes out.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
from transformers import PreTrainedTokenizerBase

from swift.errors import DataError, NotFoundError
from swift.templates.conversation import Message, Tool

MAX_SOURCE_BYTES = 64 * 1024
MAX_TEXT_CHARS = 16 * 1024 * 1024
PROBE_SECONDS, ROW_SECONDS = 10.0, 0.5
PROBE_BYTES = 1 << 30
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
MEND = "correct the file, or say another --chat_template"


def refuse(what: str, why: str = "", fix: str = FIX) -> NoReturn:
    """Say that the chat template cannot be used.

    Raises:
        DataError: always.
    """
    raise DataError("DATA-06", what, why=why, fix=fix)


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
        refuse(f"the chat template {path} has more than {MAX_SOURCE_BYTES // 1024} kB", fix=MEND)
    try:
        source = path.read_text(encoding="utf-8")
        # only the syntax is looked at; `generation` is what transformers adds to it
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(source)
    except UnicodeDecodeError:
        refuse(f"the chat template {path} is not UTF-8 text", fix=MEND)
    except jinja2.TemplateSyntaxError as error:
        refuse(f"{path}:{error.lineno}: {error.message}", fix=MEND)
    return source


class _Generation(jinja2.ext.Extension):
    """Reads `{% generation %}` blocks."""

    tags = {"generation"}  # noqa: RUF012 (as the class above has it)

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
def memory_limit(size: int) -> Iterator[None]:
    """Let this process have at most `size` bytes more, so that one expression of a template cannot take all there is.

    A template that wants more gets a MemoryError, which `render` refuses. Where the system knows no such limit, or says
    not how much there is, nothing happens.
    """
    try:
        import resource
    except ModuleNotFoundError:  # only Unix has it
        yield
        return
    statm = Path("/proc/self/statm")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if not statm.is_file() or soft != resource.RLIM_INFINITY:
        yield
        return
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


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
        # What was raised just now arrives at the latest here. It is not taken back: in CPython 3.11 doing so, even of
        # nothing, makes every thread stop at every instruction from then on.
        with lock:
            done.set()
        timer.cancel()


def names_in(source: str) -> set[str]:
    """Which of "tools" and "tool_calls" a chat template speaks of."""
    return {name for name in ("tools", "tool_calls") if name in source}


@dataclass(frozen=True)
class Pieces:
    """What a registry row writes, as text with its places `{{QUERY}}` and so on.

    Attributes:
        bos: stands before everything; "" for nothing.
        prefix: stands before the first round without a system text.
        system_prefix: the same with one.
        default_system: the system text of a conversation that says none; "" is none.
        prompt: a round up to its reply.
        last_prompt: the same of the last round, where the system text may stand.
        tool_prompt: the round of what tools answered.
        last_tool_prompt: the same of the last round.
        lead: stands before every reply.
        separator: stands between a reply and the next round.
        suffix: the end of a reply.
        trim: the roles whose texts lose their outer white space.
    """

    bos: str
    prefix: str
    system_prefix: str
    default_system: str
    prompt: str
    last_prompt: str
    tool_prompt: str
    last_tool_prompt: str
    lead: str
    separator: str
    suffix: str
    trim: tuple[str, ...] = ()


def write_source(pieces: Pieces) -> str:
    """The chat template that writes what a registry row writes. It knows no tools and no thoughts."""
    strip = {role: " | trim" if role in pieces.trim else "" for role in ("system", "user", "assistant", "tool")}

    def shown(text: str, role: str = "user") -> str:
        return _shown(
            text, {**PLACES, "{{QUERY}}": f"(asked.text{strip[role]})", "{{SYSTEM}}": f"(system{strip['system']})"}
        )

    def either(one: str, other: str, role: str) -> str:
        if one == other:
            return shown(one, role)
        condition = "{%- if system and m is sameas asked.last -%}"
        return f"{condition}{shown(one, role)}{{%- else -%}}{shown(other, role)}{{%- endif -%}}"

    return f"""\
{{%- set system = {_literal(pieces.default_system)} -%}}
{{%- set talk = messages -%}}
{{%- if messages and messages[0]['role'] == 'system' -%}}
{{%- set system = messages[0]['content'] -%}}
{{%- set talk = messages[1:] -%}}
{{%- endif -%}}
{{%- set asked = namespace(text='', role='', last=none, round=0) -%}}
{{%- for m in talk if m['role'] != 'assistant' -%}}{{%- set asked.last = m -%}}{{%- endfor -%}}
{shown(pieces.bos)}
{{%- if system -%}}{shown(pieces.system_prefix)}{{%- else -%}}{shown(pieces.prefix)}{{%- endif -%}}
{{%- for m in talk -%}}
{{%- if m['role'] == 'assistant' -%}}
{shown(pieces.lead)}{{{{- m['content']{strip["assistant"]} -}}}}
{{%- set asked.round = asked.round + 1 -%}}
{{%- set asked.role = '' -%}}
{{%- if loop.last -%}}{shown(pieces.suffix)}{{%- else -%}}{shown(pieces.separator)}{{%- endif -%}}
{{%- else -%}}
{{%- set asked.text = asked.text + '\\n' + m['content'] if asked.role == 'tool' else m['content'] -%}}
{{%- set asked.role = m['role'] -%}}
{{%- if loop.last or loop.nextitem['role'] != 'tool' -%}}
{{%- if m['role'] == 'tool' -%}}{either(pieces.last_tool_prompt, pieces.tool_prompt, "tool")}
{{%- else -%}}{either(pieces.last_prompt, pieces.prompt, "user")}{{%- endif -%}}
{{%- endif -%}}
{{%- endif -%}}
{{%- endfor -%}}
"""


PLACES = {"{{ROUND0}}": "(asked.round | string)", "{{ROUND1}}": "((asked.round + 1) | string)"}


def _shown(text: str, places: Mapping[str, str]) -> str:
    """Text with places, as an expression that writes it; "" for nothing."""
    parts: list[str] = []
    while text:
        found = min(((text.find(place), place) for place in places if place in text), default=None)
        at, place = found or (len(text), "")
        parts += [_literal(text[:at])] if text[:at] else []
        parts += [places[place]] if place else []
        text = text[at + len(place) :]
    return "{{- " + " + ".join(parts) + " -}}" if parts else ""


def _literal(text: str) -> str:
    """A text as Jinja writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"

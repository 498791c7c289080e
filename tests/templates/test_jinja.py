"""Limits on what a chat template may do: time in every thread, length, source."""

from __future__ import annotations

import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from swift.errors import DataError
from swift.templates import jinja
from swift.templates.template import get_template
from tests.templates.chats import talk
from tests.tiny import CHATML, tiny_tokenizer

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def limited(seconds: float) -> list[str]:
    """What is said about a loop without end, and how long it took."""
    said: list[str] = []
    start = time.monotonic()
    try:
        with jinja.time_limit(seconds, "a loop"):
            while True:
                pass
    except DataError as error:
        said.append(str(error))
    assert time.monotonic() - start < seconds + 3
    return said


def test_the_main_thread_is_stopped():
    before = signal.getsignal(signal.SIGALRM)
    assert "more than 0.2 seconds for a loop" in limited(0.2)[0]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_thread_is_stopped():
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.extend(limited(0.2)))
    thread.start()
    thread.join(10)
    assert "more than 0.2 seconds for a loop" in said[0]


def test_what_is_quick_is_left_alone(monkeypatch):
    done: list[int] = []
    raised: list[object] = []  # even of nothing, it makes CPython 3.11 stop at every instruction from then on
    monkeypatch.setattr(jinja.ctypes.pythonapi, "PyThreadState_SetAsyncExc", lambda *what: raised.append(what))

    def work() -> None:
        for k in range(50):
            with jinja.time_limit(5, "a step"):
                done.append(k)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    work()
    assert len(done) == 100
    assert not raised


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_template_that_turns_slow_later_is_stopped(in_thread, monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% if messages|length > 4 %}" + LOOPS + "{% endif %}" + CHATML
    template = get_template("auto", tokenizer)
    monkeypatch.setattr("swift.templates.auto.PROBE_SECONDS", 0.3)
    said: list[DataError] = []

    def work() -> None:
        try:
            template.encode(talk("a", "b", "c", "d", "e", "f"))
        except DataError as error:
            said.append(error)

    if in_thread:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
    else:
        work()
    assert "seconds for a conversation" in str(said[0])


def test_too_long_an_output_is_refused(monkeypatch):
    tokenizer = tiny_tokenizer()
    template = get_template("auto", tokenizer)
    monkeypatch.setattr(jinja, "MAX_TEXT_CHARS", 100)
    with pytest.raises(DataError, match="more than 100 characters"):
        template.encode(talk("a" * 100, "b"))


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ range(999999)|list }}", "{{ 1/0 }}"]
)
def test_the_sandbox_holds(source):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source + CHATML
    with pytest.raises(DataError, match="refuses"):
        get_template("auto", tokenizer).encode(talk("a", "b"))


DOUBLING = (
    "{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the system does not say how much memory there is")
@pytest.mark.parametrize("source", ["{{ 'x' * 6000000000 }}", "{{ '%6000000000d' % 1 }}", DOUBLING])
def test_a_template_cannot_take_all_memory(source):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(DataError, match="chat template"):
        get_template("auto", tokenizer)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # kB

"""Chats with a model that a process of its own serves: `swift deploy` on this machine alone, behind a key."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from swift.errors import UnavailableError
from swift.inference.client import XRequestConfig, get_model_list_client, inference_client
from swift.studio.jobs import Job, birth_of
from swift.studio.studio import Studio

KEY = "SWIFT_API_KEY"
OWNER = "SWIFT_STUDIO"  # the process that a model is served for, and when that began; it does not outlive it
ADDRESS = re.compile(r"serving .* on (http://127\.0\.0\.1:\d+/)v1")
MOST_LOADED = 2
PATIENCE = 600.0  # seconds until a model is loaded
SECONDS_BETWEEN_VIEWS = 0.05
History = list[list[str]]


@dataclass
class Served:
    """A model that is being served."""

    job: Job
    key: str
    url: str
    model: str
    used: float


class Talks:
    """The models that are loaded, and everybody's answers; what a server left loaded that was killed is ended."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.served: dict[str, Served] = {}
        self.stops: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        for job in studio.jobs.all():
            if job.command == "deploy" and job.alive() and not _is_owned(job):
                job.stop()

    def load(self, said: str) -> None:
        """Serve a model, unless it is; the one that was not used for longest goes when there are too many.

        Raises:
            UnavailableError: it cannot be loaded; its log says why.
        """
        with self._lock, ExitStack() as undo:
            if self._closing.is_set():
                raise UnavailableError("SERVER-04", "the studio ends")
            if said in self.served and self.served[said].job.alive():
                return
            words = self.studio.model_words(said)
            for name in sorted(self.served, key=lambda name: self.served[name].used)[: 1 - MOST_LOADED or None]:
                self._end(name)
            key = secrets.token_urlsafe(24)
            owner = {OWNER: f"{os.getpid()} {birth_of(os.getpid())}"}
            job = self.studio.jobs.start(
                "deploy", [*words, "--host", "127.0.0.1", "--port", "0"], owner, secret={KEY: key}
            )
            undo.callback(job.stop)
            url = _address(job, self._closing)
            model = str(get_model_list_client(url=url, api_key=key).data[0].id)
            self.served[said] = Served(job, key, url, model, time.monotonic())
            undo.pop_all()

    def unload(self, said: str) -> None:
        """End its process."""
        with self._lock:
            self._end(said)

    def close(self) -> None:
        """End all of them, and what is being loaded."""
        self._closing.set()
        with self._lock:
            for name in list(self.served):
                self._end(name)

    def is_loaded(self, said: str) -> bool:
        """Whether it can be talked to."""
        return said in self.served and self.served[said].job.alive()

    def answer(
        self, said: str, asked: str, history: History, system: str, temperature: float, new_tokens: int, person: str
    ) -> Iterator[str]:
        """The answer so far, as it grows.

        Raises:
            UnavailableError: the model is not loaded.
            SwiftError: it refuses.
        """
        if not self.is_loaded(said):
            raise UnavailableError("SERVER-04", f"{said} is not loaded", fix="load it")
        served, stop = self.served[said], self.stops.setdefault(person, threading.Event())
        stop.clear()
        served.used = time.monotonic()
        config = XRequestConfig(temperature=temperature, max_tokens=new_tokens, stream=True)
        chunks = inference_client(
            served.model,
            asked,
            history,
            system or None,
            request_config=config,
            url=served.url,
            api_key=served.key,
        )
        text, shown = "", 0.0
        try:
            for chunk in chunks:
                if stop.is_set():
                    break
                text += (vars(chunk.choices[0].delta).get("content") or "") if chunk.choices else ""
                if time.monotonic() - shown > SECONDS_BETWEEN_VIEWS:
                    yield text
                    shown = time.monotonic()
        finally:
            chunks.close()
        yield text

    def stop(self, person: str) -> None:
        """End this person's answer."""
        self.stops.setdefault(person, threading.Event()).set()

    def leave(self, person: str) -> None:
        """The same, for good."""
        if (event := self.stops.pop(person, None)) is not None:
            event.set()

    def _end(self, said: str) -> None:
        served = self.served.pop(said, None)
        if served is not None:
            served.job.stop()


def _is_owned(job: Job) -> bool:
    """Whether the server that a job serves for still runs; one that does not say whom is left alone."""
    pid, _, born = job.environment.get(OWNER, "").partition(" ")
    return not pid or birth_of(int(pid)) == born


def _address(job: Job, closing: threading.Event) -> str:
    """Where a job serves, once it does.

    Raises:
        UnavailableError: it ended before, takes too long, or nobody waits for it any more.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and not closing.is_set():
        if found := ADDRESS.search(job.log()):
            return found[1] + "v1"
        if not job.alive():
            break
        closing.wait(0.2)
    raise UnavailableError("SERVER-04", job.log(12) or "the model's process ended")

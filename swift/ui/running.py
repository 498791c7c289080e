"""Which answers are being written, and how to end them."""

from __future__ import annotations

import threading


class Running:
    """The answers that are being written, by whom they are for."""

    def __init__(self) -> None:
        self.stops: dict[str, threading.Event] = {}

    def begin(self, person: str) -> threading.Event:
        """The event that stops this person's next answer; it may be set before the answer has begun."""
        return self.stops.setdefault(person, threading.Event())

    def stop(self, person: str) -> None:
        """End this person's answer with the token at work."""
        if person in self.stops:
            self.stops[person].set()

    def end(self, person: str, stop: threading.Event) -> None:
        """Forget an answer that has ended, unless this person waits for another one by now."""
        if self.stops.get(person) is stop:
            del self.stops[person]

    def leave(self, person: str) -> None:
        """End this person's answer; there will be no other."""
        self.stop(person)
        self.stops.pop(person, None)

    def stop_all(self) -> None:
        """End every answer."""
        for stop in list(self.stops.values()):
            stop.set()

"""What the server has done so far, in the text format of Prometheus.

See: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from collections import Counter

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How many observations were at most so many seconds."""

    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about
        self.counts, self.total, self.number = [0] * len(SECONDS), 0.0, 0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts = [count + (seconds <= limit) for count, limit in zip(self.counts, SECONDS, strict=True)]
        self.total, self.number = self.total + seconds, self.number + 1

    def lines(self) -> list[str]:
        """As text."""
        found = [f"# HELP {self.name} {self.about}", f"# TYPE {self.name} histogram"]
        found += [f'{self.name}_bucket{{le="{s}"}} {count}' for s, count in zip(SECONDS, self.counts, strict=True)]
        found.append(f'{self.name}_bucket{{le="+Inf"}} {self.number}')
        return [*found, f"{self.name}_sum {self.total:.6f}", f"{self.name}_count {self.number}"]


class Measures:
    """Counters of requests and tokens; all may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = self.generated_tokens = self.slow_readers = 0
        self.first_token = Histogram("swift_first_token_seconds", "Time until the first token of an answer.")
        self.duration = Histogram("swift_request_seconds", "Time until the whole answer.")

    def wrote(self, prompt_tokens: int, generated_tokens: int) -> None:
        """A prompt was read and so much of its answers written, whoever still wanted them."""
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.generated_tokens += generated_tokens

    def took(self, seconds: float) -> None:
        """An answer ended."""
        with self._lock:
            self.duration.observe(seconds)

    def began(self, seconds: float) -> None:
        """An answer has its first token."""
        with self._lock:
            self.first_token.observe(seconds)

    def unread(self) -> None:
        """A caller did not read what was answered, and was hung up on."""
        with self._lock:
            self.slow_readers += 1

    def responded(self, path: str, status: int) -> None:
        """A request was answered with this status."""
        with self._lock:
            self.requests[path, status] += 1

    def text(self, running: int, waiting: int) -> str:
        """All of them, and how many requests there are now."""
        with self._lock:
            plain = [
                ("swift_prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
                ("swift_generated_tokens_total", "counter", "Tokens of answers.", self.generated_tokens),
                ("swift_slow_readers_total", "counter", "Callers who did not read in time.", self.slow_readers),
                ("swift_requests_running", "gauge", "Requests that are being answered.", running),
                ("swift_requests_waiting", "gauge", "Requests that wait for a slot.", waiting),
            ]
            lines = [
                line
                for name, kind, about, value in plain
                for line in (f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {value}")
            ]
            lines += ["# HELP swift_requests_total Requests by path and status.", "# TYPE swift_requests_total counter"]
            lines += [
                f'swift_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ]
            return "\n".join([*lines, *self.first_token.lines(), *self.duration.lines()]) + "\n"

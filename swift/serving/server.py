"""The server itself: it listens, answers, and ends in order."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from transformers import GenerationConfig

from swift.arguments.deploy import DeployArguments
from swift.errors import ConfigError, UnavailableError
from swift.inference.embedding import Embedder, EmbeddingService
from swift.inference.generate import shared_engine
from swift.inference.service import Service
from swift.inference.settings import prepare_generation_config
from swift.log import get_logger
from swift.serving import embeddings
from swift.serving.adapters import Adapters
from swift.serving.app import Api, make_app
from swift.serving.asking import Asking
from swift.serving.embeddings import EmbeddingApi
from swift.serving.guard import Guard, PromptProtocol
from swift.templates.template import Template
from swift.ui.serving import address_of

logger = get_logger()
SECONDS_TO_FINISH, SECONDS_TO_CLOSE = 20, 5
MOST_CONNECTIONS = 512
MOST_LOGGED = 4096  # bytes of a request


class Server(uvicorn.Server):
    """A server that, told to end, lets answers finish for a while and then cuts them."""

    def __init__(self, config: uvicorn.Config, service: Service | EmbeddingService) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Accept nothing more; end the answers that take too long."""
        super().handle_exit(sig, frame)
        late = threading.Timer(SECONDS_TO_FINISH, self.service.cancel_all)
        late.daemon = True
        late.start()


class Served:
    """A model that is being served.

    Args:
        args: decided options.
        api: what it answers; `text_api` and `embedding_api` make one.
        listening: where; closed with it.
        key: what callers must send; None lets everybody in.
        hosts: the host names that requests may be for.
    """

    def __init__(
        self,
        args: DeployArguments,
        api: Api | EmbeddingApi,
        listening: socket.socket,
        key: str | None,
        hosts: Sequence[str],
    ) -> None:
        self.args, self.listening, self.api = args, listening, api
        self.service: Any = api.service
        app = make_app(api) if isinstance(api, Api) else embeddings.make_app(api)
        scheme = "https" if args.ssl_certfile else "http"
        self.url = address_of(listening).replace("http", scheme, 1)
        config = uvicorn.Config(
            Guard(app, key, hosts, self.api.measures.responded, log_request if args.log_requests else None),
            http=partial(PromptProtocol, slow=self.api.measures.unread),  # type: ignore[arg-type]
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=SECONDS_TO_FINISH + SECONDS_TO_CLOSE,
            ssl_certfile=args.ssl_certfile,
            ssl_keyfile=args.ssl_keyfile,
        )
        self.server = Server(config, self.service)
        self.thread: threading.Thread | None = None
        self._ended = threading.Event()

    @property
    def names(self) -> list[str]:
        """What callers can say in `model`."""
        return self.api.names

    def run(self) -> None:
        """Serve in this thread until a signal comes."""
        if self.args.log_interval:
            threading.Thread(target=self._tell_speed, name="speed", daemon=True).start()
        try:
            self.server.run(sockets=[self.listening])
        finally:
            self._ended.set()
            self.service.close()
            self.listening.close()

    def start(self) -> None:
        """Serve in another thread."""
        self.thread = threading.Thread(target=self.run, name="server", daemon=True)
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)
        if not self.server.started:
            raise UnavailableError("SERVER-01", f"the server on {self.url} did not start")

    def close(self) -> None:
        """End the answers, then the server."""
        self.service.cancel_all()
        self.server.should_exit = True
        if self.thread is not None:
            self.thread.join()

    def _tell_speed(self) -> None:
        """Log what was done, every `log_interval` seconds in which something was."""
        before = 0
        while not self._ended.wait(self.args.log_interval):
            now = self.api.measures.generated_tokens
            if now != before:
                running, waiting = self.service.num_running, self.service.num_waiting
                speed = (now - before) / self.args.log_interval
                logger.info(f"{speed:.1f} tokens/s, {running} running, {waiting} waiting")
            before = now


def log_request(method: str, path: str, body: bytes) -> None:
    """One line of the log with the beginning of what somebody asked."""
    logger.info(f"{method} {path!r} {body[:MOST_LOGGED].decode('utf-8', 'replace')!r}")


def text_api(args: DeployArguments, base: str, model: Any, template: Template) -> Api:
    """What a model that writes text answers, with the adapter of a checkpoint on where there is one.

    Raises:
        ConfigError: the model cannot answer several at once.
    """
    adapters = Adapters(args, base, model)
    plain = prepare_generation_config(model, template, GenerationConfig())
    engine = shared_engine(adapters.model, plain, args.batch_size)
    if engine is None:
        raise ConfigError("CONFIG-03", f"{base} cannot answer several requests at once: it cannot be served")
    service = Service(engine, args.max_waiting)
    service.engine.knows = lambda adapter: adapter in adapters.adapters.values()
    return Api(args, service, Asking(args, model, template, adapters), adapters)


def embedding_api(args: DeployArguments, base: str, embedder: Embedder) -> EmbeddingApi:
    """What a model that gives vectors answers."""
    return EmbeddingApi(args, EmbeddingService(embedder, args.batch_size, args.max_waiting), base)

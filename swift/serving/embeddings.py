"""A model of vectors behind the API: `/v1/embeddings`, and what else it answers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from swift.arguments.deploy import DeployArguments
from swift.errors import SwiftError
from swift.inference.embedding import EmbeddingService, shortened
from swift.log import get_logger
from swift.serving.app import SECONDS_TO_CHECK, Exposition, plain_app
from swift.serving.measures import Measures
from swift.serving.protocol import ApiError, EmbeddingRequest

logger = get_logger()
SECONDS_TO_WAIT = 1


class EmbeddingApi:
    """What the routes do.

    Args:
        args: decided options.
        service: gives the vectors.
        name: what callers say in `model`.
    """

    def __init__(self, args: DeployArguments, service: EmbeddingService, name: str) -> None:
        self.args, self.service, self.names = args, service, [name]
        self.measures, self.created = Measures(), int(time.time())

    async def models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return {"object": "list", "data": [self._model(name) for name in self.names]}

    async def model(self, name: str) -> dict[str, Any]:
        """GET /v1/models/{name}."""
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        if name not in self.names:
            what = f"no model {name!r}; there are: {', '.join(self.names)}"
            raise ApiError(404, what, param="model", code="model_not_found")
        return {"id": name, "object": "model", "created": self.created, "owned_by": self.args.owned_by}

    async def embeddings(self, body: EmbeddingRequest, request: Request) -> Response:
        """POST /v1/embeddings."""
        self._model(body.model)
        rows, started = await run_in_threadpool(self._rows, body), time.perf_counter()
        vectors = await self._vectors(rows, request)
        if not all(bool(vector_D.isfinite().all()) for vector_D in vectors):
            raise ApiError(500, "the model gave numbers that are not finite; --dtype bf16 or fp32 reaches further")
        size = len(vectors[0])
        if body.dimensions is not None and body.dimensions > size:
            raise ApiError(400, f"vectors of this model have {size} dimensions", param="dimensions")
        tokens = sum(map(len, rows))
        self.measures.wrote(tokens, 0)
        self.measures.took(time.perf_counter() - started)
        if body.dimensions is not None:
            unit = self.service.embedder.recipe.normalize
            vectors = list(shortened(torch.stack(list(vectors)), body.dimensions, unit))
        text = await run_in_threadpool(listing, vectors, body, tokens)
        return Response(text, media_type="application/json")

    def _rows(self, body: EmbeddingRequest) -> list[list[int]]:
        embedder = self.service.embedder
        known, rows = len(embedder.tokenizer), []
        for k, said in enumerate(body.inputs):
            row = embedder.ids(said) if isinstance(said, str) else said
            if not row or said == "":
                raise ApiError(400, f"input {k} is empty", param="input")
            if embedder.max_length is not None and len(row) > embedder.max_length:
                what = f"input {k} has {len(row)} tokens, more than {embedder.max_length}"
                raise ApiError(400, what, param="input", code="context_length_exceeded")
            if max(row) >= known:
                raise ApiError(400, f"input {k} has ids beyond the {known} that there are", param="input")
            rows.append(row)
        return rows

    async def _vectors(self, rows: list[list[int]], request: Request) -> list[Tensor]:
        try:
            futures = self.service.submit(rows)
        except SwiftError as error:
            status = 429 if error.code == "SERVER-05" else 503
            raise ApiError(status, error.what, wait=SECONDS_TO_WAIT) from None
        work = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=SECONDS_TO_CHECK)
                if not work.done() and await request.is_disconnected():
                    work.cancel()
            return await work
        except asyncio.CancelledError:
            raise ApiError(503, "the server is ending", wait=SECONDS_TO_WAIT) from None
        except RuntimeError as error:
            logger.error(f"embeddings failed: {error}")
            raise ApiError(500, "the model failed at this request; the server's log says more") from None
        finally:
            work.cancel()

    async def metrics(self) -> str:
        """GET /metrics."""
        return self.measures.text(self.service.num_running, self.service.num_waiting)


def make_app(api: EmbeddingApi) -> FastAPI:
    """The application; `guard.Guard` goes around it."""
    app = plain_app()
    app.get("/metrics", response_class=Exposition)(api.metrics)
    app.get("/v1/models")(api.models)
    app.get("/v1/models/{name:path}")(api.model)
    app.post("/v1/embeddings")(api.embeddings)
    app.post("/v1/chat/completions")(_no_text)
    app.post("/v1/completions")(_no_text)
    return app


def listing(vectors: Sequence[Tensor], body: EmbeddingRequest, tokens: int) -> str:
    """The JSON of an answer, made vector by vector: the thread that answers everybody has its turn between two."""
    data = [
        json.dumps({"object": "embedding", "index": k, "embedding": written(vector_D, body.encoding_format)})
        for k, vector_D in enumerate(vectors)
    ]
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = json.dumps({"object": "list", "model": body.model, "usage": used})
    return f'{{"data": [{", ".join(data)}], {rest[1:]}'


def written(vector_D: Tensor, how: str) -> list[float] | str:
    """A vector as a list, or the base64 of its float32 numbers, the low byte first."""
    if how == "base64":
        return base64.b64encode(vector_D.numpy().astype("<f4").tobytes()).decode()
    return vector_D.tolist()


def _no_text() -> None:
    """POST /v1/chat/completions, /v1/completions."""
    raise ApiError(400, "this model gives vectors: use /v1/embeddings")

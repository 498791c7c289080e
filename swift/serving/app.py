"""The routes of the API."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from swift._version import __version__
from swift.arguments.deploy import DeployArguments
from swift.errors import SwiftError, TemporaryError
from swift.inference.engine import Generation
from swift.inference.service import Service
from swift.log import get_logger
from swift.serving.adapters import Adapters
from swift.serving.asking import Asking, Question, tool_calls
from swift.serving.growing import SECONDS_TO_WAIT, Growing
from swift.serving.logprobs import Logprobs
from swift.serving.measures import Measures
from swift.serving.protocol import (
    STATUSES,
    AdapterRequest,
    ApiError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ErrorBody,
    envelope,
    usage,
)
from swift.templates.tools import Call

logger = get_logger()
Given = TypeVar("Given")
SECONDS_TO_CHECK = 0.5
KIND = re.compile(r"constrained-\w+|(?:list|literal)\[.*\]|NamedTool", re.DOTALL)  # pydantic's names of kinds of values
ALL = sys.maxsize
SECONDS_TO_COME_AGAIN = 5


class Api:
    """What the routes do.

    Args:
        args: decided options.
        service: whose engine answers.
        asking: reads requests.
        adapters: the models that can be named.
    """

    def __init__(self, args: DeployArguments, service: Service, asking: Asking, adapters: Adapters) -> None:
        self.args, self.service, self.asking, self.adapters = args, service, asking, adapters
        self.measures = Measures()
        self.created = int(time.time())

    @property
    def names(self) -> list[str]:
        """What callers can say in `model`."""
        return self.adapters.names

    async def models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return {"object": "list", "data": [self._model(name) for name in self.names]}

    async def model(self, name: str) -> dict[str, Any]:
        """GET /v1/models/{name}."""
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        self.adapters.find(name)
        return {"id": name, "object": "model", "created": self.created, "owned_by": self.args.owned_by}

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """POST /v1/chat/completions."""
        question = await run_in_threadpool(self.asking.chat, body)
        self._let_in()
        growing = Growing(self.service, self.measures, question)
        if body.stream:
            return _events(self._chat_chunks(body, question, growing), growing)
        generations = await _unless_gone(request, growing)
        choices = await run_in_threadpool(self._chat_choices, question, generations)
        used = usage(question.num_prompt_tokens, growing.num_generated_tokens)
        return JSONResponse({**envelope("chat.completion", body.model), "choices": choices, "usage": used})

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        """POST /v1/completions."""
        questions = await run_in_threadpool(self.asking.completions, body)
        if body.stream and len(questions) > 1:
            raise ApiError(400, "a stream continues one prompt", param="prompt")
        self._let_in()
        with contextlib.ExitStack() as leaving:  # whatever happens, nothing is written for nobody
            all_growing: list[Growing] = []
            for question in questions:
                all_growing.append(Growing(self.service, self.measures, question))
                leaving.callback(all_growing[-1].cancel)
            if body.stream:
                leaving.pop_all()
                return _events(self._text_chunks(body, questions[0], all_growing[0]), all_growing[0])
            generations = [each for growing in all_growing for each in await _unless_gone(request, growing)]
        choices = await run_in_threadpool(_text_choices, generations)
        prompt = sum(question.num_prompt_tokens for question in questions)
        used = usage(prompt, sum(len(each.ids) for each in generations))
        return JSONResponse({**envelope("text_completion", body.model), "choices": choices, "usage": used})

    def _let_in(self) -> None:
        """Raise ApiError where too many answers wait; who is let in gets all that they ask for."""
        try:
            self.service.check_room()
        except TemporaryError as error:
            raise ApiError(429, error.what, wait=SECONDS_TO_WAIT) from None

    async def add_adapter(self, body: AdapterRequest) -> dict[str, Any]:
        """POST /v1/adapters."""
        await self._between_steps(lambda: self._load(body))
        logger.info(f"adapter loaded: {body.name}")
        return self._model(body.name)

    def _load(self, body: AdapterRequest) -> None:
        self.adapters.load(body.name, body.path)
        self.service.engine.model = self.adapters.model  # the first adapter wraps the plain model

    def _drop(self, inside: str) -> bool:
        """Whether an adapter could be dropped; if not, those who wait for it end with the next step."""
        if self.service.engine.cancel_adapter(inside):
            return False
        self.adapters.drop(inside)
        self.service.engine.forget_adapter(inside)
        self.service.engine.model = self.adapters.model
        return True

    async def drop_adapter(self, name: str) -> dict[str, Any]:
        """DELETE /v1/adapters/{name}."""
        inside = self.adapters.forget(name)
        while not await self._between_steps(lambda: self._drop(inside)):
            await asyncio.sleep(0)
        logger.info(f"adapter dropped: {name}")
        return {"id": name, "object": "model", "deleted": True}

    async def metrics(self) -> str:
        """GET /metrics."""
        return self.measures.text(self.service.num_running, self.service.num_waiting)

    async def _between_steps(self, job: Callable[[], Given]) -> Given:
        try:
            return await asyncio.wrap_future(self.service.between_steps(job))
        except SwiftError as error:
            raise ApiError(403 if error.code == "REFUSED-01" else 400, error.what) from None

    def _chat_choices(self, question: Question, generations: Sequence[Generation]) -> list[dict[str, Any]]:
        """The answers of a request; long ones take a while to read."""
        choices = []
        for index, generation in enumerate(generations):
            content, calls = self.asking.calls(question, generation.request.reader.whole(generation.ids))
            message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
            if calls:
                message["tool_calls"] = tool_calls(calls)
            reason, logprobs = _reason(generation, calls), Logprobs(generation).chat(ALL)
            choices.append({"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs})
        return choices

    async def _chat_chunks(self, body: ChatRequest, question: Question, growing: Growing) -> AsyncIterator[dict]:
        head = envelope("chat.completion.chunk", body.model)

        def chunk(k: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
            used = usage(question.num_prompt_tokens, growing.num_generated_tokens)
            choice = {"index": k, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
            return {**head, "choices": [choice], "usage": used}

        told = [Logprobs(generation) for generation in growing.generations]
        for k in range(len(told)):
            yield chunk(k, {"role": "assistant", "content": ""})
        async for k, text, count, ended in growing.pieces(wait=bool(question.tools)):
            content, calls = text, list[Call]()
            if ended and question.tools:
                content, calls = await run_in_threadpool(self.asking.calls, question, text)
            logprobs = told[k].chat(ALL if ended else count)
            if content or logprobs:
                yield chunk(k, {"content": content}, logprobs=logprobs)
            if calls:
                numbered = [{"index": i, **call} for i, call in enumerate(tool_calls(calls))]
                yield chunk(k, {"tool_calls": numbered})
            if ended:
                yield chunk(k, {}, _reason(growing.generations[k], calls))
        if body.stream_options and body.stream_options.include_usage:
            used = usage(question.num_prompt_tokens, growing.num_generated_tokens)
            yield {**head, "choices": [], "usage": used}

    async def _text_chunks(self, body: CompletionRequest, question: Question, growing: Growing) -> AsyncIterator[dict]:
        head = envelope("text_completion", body.model)
        told = [Logprobs(generation) for generation in growing.generations]
        async for k, text, count, ended in growing.pieces():
            reason = _reason(growing.generations[k]) if ended else None
            used = usage(question.num_prompt_tokens, growing.num_generated_tokens)
            logprobs = told[k].text(ALL if ended else count)
            choice = {"index": k, "text": text, "finish_reason": reason, "logprobs": logprobs}
            yield {**head, "choices": [choice], "usage": used}


class Exposition(PlainTextResponse):
    """Numbers for Prometheus, which reads the version of their format."""

    media_type = "text/plain; version=0.0.4"


def make_app(api: Api) -> FastAPI:
    """The application; `guard.Guard` goes around it."""
    app = plain_app()
    app.get("/metrics", response_class=Exposition)(api.metrics)
    app.get("/v1/models")(api.models)
    app.get("/v1/models/{name:path}")(api.model)  # a name may have slashes
    app.post("/v1/chat/completions")(api.chat)
    app.post("/v1/completions")(api.completions)
    app.post("/v1/embeddings")(_no_embeddings)
    app.post("/v1/adapters")(api.add_adapter)
    app.delete("/v1/adapters/{name}")(api.drop_adapter)
    return app


def plain_app() -> FastAPI:
    """An application without a model: it is healthy, and words errors as OpenAI does."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": about} for status, about in STATUSES.items()
    }
    app = FastAPI(title="swift", version=__version__, docs_url=None, redoc_url=None, responses=told)
    app.get("/health")(_healthy)
    app.exception_handler(ApiError)(_say)
    app.exception_handler(RequestValidationError)(_say_what_is_wrong)
    app.exception_handler(HTTPException)(_say_status)
    app.exception_handler(RecursionError)(_say_too_deep)
    app.exception_handler(Exception)(_say_failed)
    return app


async def _healthy() -> dict[str, str]:
    """GET /health."""
    return {"status": "ok"}


def _no_embeddings() -> None:
    """POST /v1/embeddings."""
    raise ApiError(400, "this model writes text: it has no embeddings")


async def _say(_: Request, error: Any) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _say_what_is_wrong(request: Request, error: Any) -> JSONResponse:
    if not request.headers.get("content-type", "").startswith("application/json"):
        return await _say(request, ApiError(400, "the body is JSON: send Content-Type: application/json"))
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    if first["type"] == "json_invalid":
        what = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return await _say(request, ApiError(400, what))
    if first["type"] == "extra_forbidden":
        where = _field(first)
        known = {*ChatRequest.model_fields, *CompletionRequest.model_fields, *EmbeddingRequest.model_fields} - {where}
        near = difflib.get_close_matches(where, known, 1)
        what = f"unknown field {where!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        return await _say(request, ApiError(400, what[:500], param=where))
    # of the kinds that a value may be of, the one that is meant
    deepest = max(found, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    first = deepest if any(KIND.fullmatch(str(part)) for part in first["loc"]) else first
    where = _field(first)
    return await _say(request, ApiError(400, f"{where or 'body'}: {first['msg']}"[:500], param=where or None))


def _field(error: dict[str, Any]) -> str:
    """The field that an error is about, without the kinds of values that pydantic names on the way."""
    parts = [str(part) for part in error["loc"] if part != "body"]
    if error["type"] != "extra_forbidden":
        parts = [part for part in parts if not KIND.fullmatch(part)]
    return ".".join(parts)[:64]


async def _say_status(_: Request, error: Any) -> JSONResponse:
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body, error.status_code, error.headers)


async def _say_failed(request: Request, error: Any) -> JSONResponse:
    number = secrets.token_hex(6)
    logger.error(f"request {number} failed: {type(error).__name__}: {error}")
    return await _say(request, ApiError(500, f"this request failed; the server's log says why under {number}"))


async def _say_too_deep(request: Request, _: Any) -> JSONResponse:
    return await _say(request, ApiError(400, "the body is nested too deep"))


def _reason(generation: Generation, calls: Sequence[Call] = ()) -> str:
    """Why an answer ended; one that was cut is not called whole because of what it calls."""
    return "tool_calls" if calls and generation.finish_reason == "stop" else generation.finish_reason or "stop"


def _text_choices(generations: Sequence[Generation]) -> list[dict[str, Any]]:
    return [
        {"index": k, "text": each.request.reader.whole(each.ids), "finish_reason": _reason(each),
         "logprobs": Logprobs(each).text(ALL)}
        for k, each in enumerate(generations)
    ]  # fmt: skip


class Events(StreamingResponse):
    """A stream of events; who hangs up ends the answer."""

    growing: Growing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.growing.cancel()


def _events(chunks: AsyncIterator[dict[str, Any]], growing: Growing) -> Events:
    """Server-sent events; an error after the first becomes the last one."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield f"data:{json.dumps(chunk, ensure_ascii=False)}\n\n"
                choices = chunk["choices"]
                if choices and choices[0]["finish_reason"] == "stopped":
                    raise ApiError(503, "the server is ending")
        except ApiError as error:
            yield f"data:{json.dumps(error.body)}\n\n"
        yield "data:[DONE]\n\n"

    response = Events(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    response.growing = growing
    return response


async def _hung_up(request: Request) -> None:
    """Waits until the caller has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(SECONDS_TO_CHECK)


async def _unless_gone(request: Request, growing: Growing) -> list[Generation]:
    """The finished answers; they end early when the caller has gone.

    Raises:
        ApiError: the server ended them.
    """
    work, gone = asyncio.ensure_future(growing.whole()), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            growing.cancel()
        generations = await work
    finally:
        growing.cancel()
        work.cancel()
        gone.cancel()
    if any(generation.finish_reason == "stopped" for generation in generations):
        raise ApiError(503, "the server is ending", wait=SECONDS_TO_COME_AGAIN)
    return generations

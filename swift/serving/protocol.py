"""Requests of the OpenAI API with a limit on everything, and the answers' shapes.

See: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_MESSAGES, MOST_CHARACTERS, MOST_TOOLS = 2048, 2_000_000, 128
MOST_CHOICES, MOST_STOPS, LONGEST_STOP, MOST_LOGPROBS = 8, 16, 64, 20
MOST_TOKENS, MOST_BIASES = 1 << 20, 1024
MOST_FIELDS = 64
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
MOST_TEXTS = 2048
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
Ids = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1, max_length=MOST_TOKENS)]
Token = Annotated[int, Field(ge=0)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class Part(BaseModel):
    """A piece of a message; only text can be read."""

    type: Literal["text"]
    text: Text


class Function(BaseModel):
    """The function of a call."""

    name: str = Field(max_length=256)
    arguments: Text = ""


class ToolCall(BaseModel):
    """A call that an earlier answer made."""

    id: str = Field("", max_length=256)
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(max_length=64)] | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] | None = Field(None, max_length=MOST_TOOLS, fail_fast=True)
    tool_call_id: str | None = Field(None, max_length=256)

    def row(self) -> dict[str, Any]:
        """The message as a row of a data set has it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])
        role = "system" if self.role == "developer" else self.role
        calls = [call.model_dump() for call in self.tool_calls or []]
        return {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}


class StreamOptions(BaseModel):
    """What a stream says besides the answer."""

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class NamedFunction(BaseModel):
    """The function that has to be called."""

    name: str = Field(max_length=256)


class NamedTool(BaseModel):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class Asked(BaseModel):
    """What both kinds of request may say; None is the server's own option."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=512)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=MOST_TOKENS)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, allow_inf_nan=False)
    presence_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float = Field(0.0, ge=-2, le=2, allow_inf_nan=False)
    logit_bias: dict[Token, Bias] = Field(default_factory=dict, max_length=MOST_BIASES)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    # What some clients send with each request; there are no beams here.
    best_of: int = Field(1, ge=1, le=1)
    num_beams: int = Field(1, ge=1, le=1)
    length_penalty: float = Field(1.0, ge=1, le=1)
    # What says nothing about the answer: accounts, tiers, caches of the service that invented this API.
    user: str | None = Field(None, max_length=1024)
    store: bool | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    service_tier: str | None = Field(None, max_length=64)
    safety_identifier: str | None = Field(None, max_length=1024)
    prompt_cache_key: str | None = Field(None, max_length=1024)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, data: Any) -> Any:
        """What clients say as null is not said."""
        if isinstance(data, dict) and len(data) > MOST_FIELDS:
            raise ValueError("too many fields")
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report; None reports no probabilities."""
        return None


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: list[dict[str, Any]] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _top_wants_logprobs(cls, value: int | None, info: Any) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("top_logprobs needs logprobs=true")
        return value

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report; None reports no probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    echo: Literal[False] = False
    suffix: None = None

    @property
    def prompts(self) -> list[str]:
        """The texts to continue."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report; None reports no probabilities."""
        return self.logprobs


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=512)
    input: Text | Texts | Ids | Annotated[list[Ids], Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=MOST_TOKENS)
    user: str | None = Field(None, max_length=1024)

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The texts, or the ids of each."""
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if isinstance(self.input[0], int) else self.input  # type: ignore[list-item,return-value]


class AdapterRequest(BaseModel):
    """POST /v1/adapters."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")
    path: str = Field(min_length=1, max_length=4096)


class Wrong(BaseModel):
    """What was wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is none."""

    error: Wrong


STATUSES = {
    400: "The request cannot be answered as it is.",
    401: "The key is missing or wrong.",
    403: "What is asked for may not be used.",
    404: "There is no such model or path.",
    405: "The path does not take this method.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "Too many requests wait.",
    500: "The request failed.",
    503: "The server is ending.",
}


class ApiError(Exception):
    """An error in the words of the OpenAI API, so that its clients raise their own classes."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, wait: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.wait = status, message, param, code, wait

    @property
    def body(self) -> dict[str, Any]:
        """What the caller reads."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the status."""
        found = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return found | ({"Retry-After": str(self.wait)} if self.wait else {})


def envelope(kind: str, model: str) -> dict[str, Any]:
    """What every answer and chunk begins with."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """How many tokens were read and written."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}

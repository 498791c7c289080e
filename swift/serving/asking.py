"""What a request of the API asks of the engine, and what its answers look like."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import GenerationConfig

from swift.arguments.deploy import DeployArguments
from swift.errors import SwiftError
from swift.inference.answer import Reader
from swift.inference.calling import CallConstraint, Wording, find_wording
from swift.inference.constraint import GrammarConstraint, JsonConstraint
from swift.inference.engine import Request
from swift.inference.prompt import make_turn
from swift.inference.sampling import Sampler
from swift.inference.settings import max_model_length, prepare_generation_config
from swift.serving.adapters import Adapters
from swift.serving.protocol import ApiError, Asked, ChatRequest, CompletionRequest, NamedTool, ResponseFormat
from swift.templates.calls import read_calls
from swift.templates.conversation import Tool, read_tools
from swift.templates.template import Template
from swift.templates.tools import Call

LONG = 8  # characters for each token that fits: a text of fewer is counted whole
PIECE, SLACK = 1 << 14, 16  # characters that are counted at once, and tokens that their ends may add
THOUGHT = "</think>"
LARGEST_SCHEMA = 1 << 16  # characters of JSON


@dataclass(frozen=True)
class Question:
    """One prompt of a request, as often as it is to be answered."""

    requests: list[Request]
    tools: tuple[str, ...] = ()  # names that may be called
    one_call: bool = False  # no more than one of them

    @property
    def num_prompt_tokens(self) -> int:
        """Of the prompt, once."""
        return len(self.requests[0].prompt_ids)


class Asking:
    """Turns bodies into requests of the engine; nothing here runs the model.

    Args:
        args: decided options; their sampling is what requests leave open.
        model: whose settings and length count.
        template: its chat template.
        adapters: the models that can be named.
    """

    def __init__(self, args: DeployArguments, model: Any, template: Template, adapters: Adapters) -> None:
        self.args, self.model, self.template, self.adapters = args, model, template, adapters
        self.limit = max_model_length(model)
        self.longest_prompt = None if args.max_length < 0 else args.max_length

    def chat(self, body: ChatRequest) -> Question:
        """What a conversation asks.

        Raises:
            ApiError: the model is not one that chats, or the conversation does not fit.
        """
        if self.template.generation:
            raise ApiError(400, "this model completes text: use /v1/completions", param="messages")
        tools = [] if body.tool_choice == "none" else body.tools or []
        row = {"messages": [message.row() for message in body.messages], "tools": tools or None}
        if row["messages"][-1]["role"] == "assistant":
            raise ApiError(400, "the last message is the assistant's: there is nothing to answer", param="messages")
        longest = body.max_completion_tokens or body.max_tokens
        forced = self._forced(body, tools)
        requests = self._requests(body, row, longest, None if forced else body.response_format, forced)
        names = tuple(str(tool.get("function", tool)["name"]) for tool in tools)  # `_requests` checked them
        return Question(requests, names, one_call=body.parallel_tool_calls is False)

    def completions(self, body: CompletionRequest) -> list[Question]:
        """What texts to continue ask."""
        if not self.template.generation:
            raise ApiError(400, "this model chats: use /v1/chat/completions", param="prompt")
        rows = [{"query": prompt} for prompt in body.prompts]
        return [Question(self._requests(body, row, body.max_tokens, None)) for row in rows]

    def _requests(
        self,
        body: Asked,
        row: dict[str, Any],
        longest: int | None,
        shape: ResponseFormat | None,
        forced: Sequence[Tool] = (),
    ) -> list[Request]:
        adapter = self.adapters.find(body.model)
        try:
            self._refuse_long(row, longest)
            turn = make_turn(self.template, row)
        except SwiftError as error:
            raise ApiError(400, error.what, param="tools" if error.what.startswith("tools") else "messages") from None
        except (ValueError, TypeError, RecursionError):
            raise ApiError(400, "the conversation cannot be written as tokens", param="messages") from None
        if self.longest_prompt is not None and len(turn.prompt_ids) > self.longest_prompt:
            what = f"a prompt of {len(turn.prompt_ids)} tokens: this server takes {self.longest_prompt} (--max_length)"
            raise ApiError(400, what, code="context_length_exceeded")
        config = self._config(body, len(turn.prompt_ids), longest)
        if max(body.logit_bias, default=0) >= len(self.template.tokenizer):
            what = f"logit_bias: this model knows the tokens 0 to {len(self.template.tokenizer) - 1}"
            raise ApiError(400, what, param="logit_bias")
        stops = [*self.args.stop_words, *body.stops]
        reader = Reader(self.template, config.eos_token_id, stops, turn.tokenizer_kwargs, turn.stop_after)
        seed = body.seed if body.seed is not None else secrets.randbelow(2**62)
        stop_ids = reader.stop_ids
        constraint = self._calling(body, forced, stop_ids) if forced else self._constraint(shape, stop_ids)
        return [
            Request(
                turn.prompt_ids,
                config,
                reader,
                (seed + k) % 2**63,
                adapter,
                body.num_logprobs,
                body.presence_penalty,
                body.frequency_penalty,
                None if constraint is None else constraint.copy,
                body.logit_bias,
            )
            for k in range(body.n)
        ]

    def _refuse_long(self, row: dict[str, Any], longest: int | None) -> None:
        """Raise ApiError where a text has more tokens than fit, before so many more than that are counted."""
        texts = texts_of(row)
        if self.limit is None or sum(map(len, texts)) <= LONG * self.limit:
            return
        count = 0
        for text in texts:
            for start in range(0, len(text), PIECE):
                ids = self.template.tokenizer(text[start : start + PIECE], add_special_tokens=False)["input_ids"]
                count += max(0, len(ids) - SLACK)
                if count > self.limit:
                    raise self._too_long(f"the {len(text)} characters" if len(texts) == 1 else "the texts", longest)

    def _too_long(self, what: str, longest: int | None) -> ApiError:
        more = f"{what} of the prompt and {longest or 1} tokens of the answer are more than {self.limit} tokens"
        return ApiError(400, more, param="max_tokens", code="context_length_exceeded")

    def _config(self, body: Asked, prompt: int, longest: int | None) -> GenerationConfig:
        if not prompt:
            raise ApiError(400, "the prompt is empty", param="prompt")
        said = settings(self.args, body)
        said.max_new_tokens = longest or self.args.max_new_tokens
        config = prepare_generation_config(self.model, self.template, said, num_prompt_tokens=prompt)
        if config.max_new_tokens < 1 or (longest is not None and config.max_new_tokens < longest):
            raise self._too_long(f"{prompt} tokens", longest)
        if not Sampler.serves(config):
            raise ApiError(400, "this server samples one answer at a time, without beams")
        return config

    def _constraint(self, shape: ResponseFormat | None, stop_ids: Sequence[int]) -> GrammarConstraint | None:
        if shape is None or shape.type == "text":
            return None
        schema = None
        if shape.type == "json_schema":
            schema = (shape.json_schema or {}).get("schema")
            if not isinstance(schema, dict):
                raise ApiError(400, "response_format.json_schema.schema is missing", param="response_format")
            require_small(schema, LARGEST_SCHEMA, "response_format")
        try:
            return JsonConstraint(self.template.tokenizer, stop_ids, schema)
        except SwiftError as error:
            raise ApiError(400, str(error.what), param="response_format") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ApiError(400, f"the JSON schema cannot be read: {error}"[:300], param="response_format") from None

    def _forced(self, body: ChatRequest, said: Sequence[dict[str, Any]]) -> list[Tool]:
        """The tools of which one must be called; [] when the model may do without."""
        choice = body.tool_choice
        if choice is None or choice in ("none", "auto"):
            return []
        try:
            tools = read_tools(list(said))
        except SwiftError as error:
            raise ApiError(400, error.what, param="tools") from None
        name = choice.function.name if isinstance(choice, NamedTool) else None
        wanted = [tool for tool in tools if name in (None, tool["function"]["name"])]
        if not wanted:
            what = "there are no tools to call" if name is None else f"there is no tool {name!r} to call"
            raise ApiError(400, what, param="tool_choice")
        return wanted

    def _calling(self, body: Asked, tools: Sequence[Tool], stop_ids: Sequence[int]) -> GrammarConstraint:
        """The constraint of an answer that calls one of `tools`, or several."""
        require_small(list(tools), 4 * LARGEST_SCHEMA, "tools")
        several = not (isinstance(body, ChatRequest) and body.parallel_tool_calls is False)
        try:
            return CallConstraint(self.template.tokenizer, stop_ids, self._wording, tools, several)
        except SwiftError as error:
            raise ApiError(400, str(error.what), param="tool_choice") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ApiError(400, f"what the tools take cannot be read: {error}"[:300], param="tools") from None

    @cached_property
    def _wording(self) -> Wording:
        return find_wording(self.template)

    def calls(self, question: Question, text: str) -> tuple[str, list[Call]]:
        """What an answer says beside its calls of tools, and those."""
        if not question.tools:
            return text, []
        content, calls = read_calls(text, self.template.tools_name, question.tools)
        return content, calls[:1] if question.one_call else calls


def require_small(schema: Any, characters: int, param: str) -> None:
    """Raise ApiError for a schema that would take long to read; its own size tells."""
    try:
        size = len(json.dumps(schema, ensure_ascii=False))
    except RecursionError:
        raise ApiError(400, "the JSON schema is nested too deep", param=param) from None
    if size > characters:
        raise ApiError(400, f"the JSON schema has {size} characters, {characters} are allowed", param=param)


def texts_of(row: dict[str, Any]) -> list[str]:
    """The texts of a row that a template shows whole; it leaves out blanks around them, and earlier thoughts."""
    if "query" in row:
        return [row["query"]]
    said = [message["content"].rpartition(THOUGHT)[2] for message in row["messages"]]
    tools = [json.dumps(row["tools"], ensure_ascii=False)] if row.get("tools") else []
    return [text.strip() for text in said] + tools


def settings(args: DeployArguments, body: Asked) -> GenerationConfig:
    """The server's own options, with what a request says over them."""
    said = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p} if args.do_sample else {}
    own = {"temperature": body.temperature, "top_k": body.top_k, "top_p": body.top_p, "min_p": body.min_p}
    said |= {name: value for name, value in own.items() if value is not None}
    said.setdefault("top_k", 0)
    if said["top_k"] == -1:
        said["top_k"] = 0
    sampled = body.temperature > 0 if body.temperature is not None else args.do_sample and args.temperature > 0
    penalty = body.repetition_penalty or args.repetition_penalty
    return GenerationConfig(
        do_sample=sampled,
        repetition_penalty=penalty,
        prompt_lookup_num_tokens=args.prompt_lookup_num_tokens,
        **(said if sampled else {}),
    )


def tool_calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Calls as an answer has them."""
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.json},
        }
        for call in calls
    ]

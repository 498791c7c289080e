"""Tools as text: how a model is told of them, how it calls them, how it is told what they answered.

`spell` turns a conversation with tools into one without, in one of `FORMATS`; templates need to know nothing else. A
row of the catalog names the format of its family, `--tools_prompt` another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.errors import DataError
from swift.registry import unknown
from swift.templates.conversation import Message, Talk, Tool

OBSERVATION = "Observation:"


@dataclass(frozen=True)
class Call:
    """A tool that the model asks for; `arguments` is an object, or text that is none."""

    name: str
    arguments: Any

    @property
    def json(self) -> str:
        """The arguments as text."""
        return self.arguments if isinstance(self.arguments, str) else _json(self.arguments)


@dataclass(frozen=True)
class ToolFormat:
    """One way to write tools.

    Args:
        name: the value of `--tools_prompt`.
        describe: tools -> what the model is told of them.
        call: what a reply says, and its calls -> the reply as text.
        answer: what several tools answered at once -> the text of their round.
        in_user: the tools are told in the first question, before it, and not after the system text.
        goes_on: an answer stands inside the reply, which then goes on, as after `Observation:`.
        one_call: a reply can call one tool alone.
    """

    name: str
    describe: Callable[[Sequence[Tool]], str]
    call: Callable[[str, Sequence[Call]], str]
    answer: Callable[[Sequence[str]], str]
    in_user: bool = False
    goes_on: bool = False
    one_call: bool = False


def spell(talk: Talk, style: ToolFormat, default_system: str | None = None, in_user: bool = False) -> list[Message]:
    """The messages with tools, calls and answers written out.

    Args:
        talk: the conversation.
        style: how to write them.
        default_system: the system text of a conversation that says none.
        in_user: tell of tools in the first question, because there is no place for a system text.

    Raises:
        DataError: several tools are called at once and not all answered, and the format writes one call at a time.
    """
    messages: list[Message] = []
    for message in _one_by_one(talk.messages) if style.one_call else talk.messages:
        calls = calls_of(message)
        if calls:
            message = {key: value for key, value in message.items() if key != "tool_calls"}
            message["content"] = style.call(message["content"], calls)
        elif message["role"] == "tool" and messages and messages[-1]["role"] == "tool":
            messages[-1]["contents"].append(message["content"])
            continue
        messages.append({**message, "contents": [message["content"]]} if message["role"] == "tool" else dict(message))
    for message in messages:
        if message["role"] == "tool":
            message["content"] = style.answer(message.pop("contents"))
    if talk.tools:
        _tell(messages, style.describe(talk.tools), default_system, in_user or style.in_user)
    return messages


def _one_by_one(messages: Sequence[Message]) -> list[Message]:
    """The messages with each of several calls followed by its answer.

    Raises:
        DataError: there are not as many answers as calls.
    """
    ordered: list[Message] = []
    k = 0
    while k < len(messages):
        message, count = messages[k], len(messages[k].get("tool_calls") or ())
        ordered.append(message)
        k += 1
        if count < 2:
            continue
        answers = list(messages[k : k + count])
        if [answer["role"] for answer in answers] != ["tool"] * count:
            what = f"message {k - 1} calls {count} tools at once, and {count} answers do not follow"
            why = "the tool format writes one call at a time"
            raise DataError("DATA-06", what, why=why, fix="--tools_prompt hermes")
        first, *others = message["tool_calls"]
        ordered[-1] = {**message, "tool_calls": [first]}
        for call, answer in zip([*others, None], answers, strict=True):
            ordered.append(answer)
            ordered += [{**message, "content": "", "tool_calls": [call]}] if call else []
        k += count
    return ordered


def _tell(messages: list[Message], told: str, default_system: str | None, in_user: bool) -> None:
    """Put what is told of the tools where it belongs."""
    if in_user:
        first = next((k for k, message in enumerate(messages) if message["role"] == "user"), None)
        if first is None:
            raise DataError("DATA-06", "the conversation has tools and no question")
        messages[first]["content"] = told + messages[first]["content"]
    elif messages[0]["role"] == "system":
        messages[0]["content"] = _joined(messages[0]["content"], told)
    else:
        messages.insert(0, {"role": "system", "content": _joined(default_system or "", told)})


def _joined(system: str, told: str) -> str:
    return system + told if system else told.lstrip("\n")


def calls_of(message: Message) -> list[Call]:
    """The tools that a message calls."""
    found = [call["function"] for call in message.get("tool_calls") or ()]
    return [Call(function["name"], function["arguments"]) for function in found]


def _json(value: Any, **how: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **how)


def _function(tool: Tool) -> Mapping[str, Any]:
    return tool["function"]


def _about(tool: Tool) -> str:
    """A tool in one paragraph, as ReAct prompts have it."""
    function = _function(tool)
    name, parameters = function["name"], _json(function.get("parameters", {}))
    about = function.get("description", "")
    return (
        f"{name}: Call this tool to interact with the {name} API. What is the {name} API useful for? {about} "
        f"Parameters: {parameters} Format the arguments as a JSON object."
    )


def _about_zh(tool: Tool) -> str:
    function = _function(tool)
    name, parameters = function["name"], _json(function.get("parameters", {}))
    about = function.get("description", "")
    used = f"{name}: 调用此工具与{name} API进行交互。{name} API有什么用？{about} "
    return f"{used}输入参数：{parameters} 此工具的输入应为JSON对象。"


def _names(tools: Sequence[Tool]) -> str:
    return ",".join(_function(tool)["name"] for tool in tools)


# Paper: ReAct, https://arxiv.org/abs/2210.03629; the wording is what Qwen published for its models.
def _react_en(tools: Sequence[Tool]) -> str:
    return (
        "\n\nAnswer the following questions as best you can. You have access to the following tools:\n\n"
        + "\n\n".join(map(_about, tools))
        + "\n\nUse the following format:\n\n"
        "Question: the input question you must answer\n"
        "Thought: you should always think about what to do\n"
        f"Action: the action to take, should be one of [{_names(tools)}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n\n"
        "Begin!\n"
    )


def _react_zh(tools: Sequence[Tool]) -> str:
    return (
        "\n\n尽你所能回答以下问题。你可以使用以下工具：\n\n"
        + "\n\n".join(map(_about_zh, tools))
        + "\n\n请按照以下格式进行：\n\n"
        "Question: 需要你回答的输入问题\n"
        "Thought: 你应该总是思考该做什么\n"
        f"Action: 需要使用的工具，应该是[{_names(tools)}]中的一个\n"
        "Action Input: 传入工具的内容\n"
        "Observation: 行动的结果\n"
        "...（这个Thought/Action/Action Input/Observation可以重复N次）\n"
        "Thought: 我现在知道最后的答案\n"
        "Final Answer: 对原始输入问题的最终答案\n\n"
        "现在开始！\n"
    )


def _react_call(content: str, calls: Sequence[Call]) -> str:
    said = f"{content.rstrip()}\n" if content.strip() else ""
    return said + "\n".join(f"Action: {call.name}\nAction Input: {call.json}" for call in calls)


def _react_answer(contents: Sequence[str]) -> str:
    return " " + "\n".join(contents) + "\n"


# Paper: ToolLLM, https://arxiv.org/abs/2307.16789; the wording is that of its published data.
def _toolbench(tools: Sequence[Tool]) -> str:
    return (
        "\n\nYou can use many tools(functions) to do the following task.\n"
        "First I will give you the task description, and your task start.\n"
        "At each step, you need to give your thought to analyze the status now and what to do next, with a function "
        "call to actually excute your step. Your output should follow this format:\n"
        "Thought:\nAction:\nAction Input:\n\n"
        "After the call, you will get the call result, and you are now in a new state.\n"
        "Then you will analyze your status now, then decide what to do next...\n"
        "After many (Thought-call) pairs, you finally perform the task, then you can give your finial answer.\n"
        "Remember: \n"
        "1.the state change is irreversible, you can't go back to one of the former state, if you want to restart the "
        'task, say "I give up and restart".\n'
        "2.All the thought is short, at most in 5 sentence.\n"
        "3.You can do more then one trys, so if your plan is to continusly try some conditions, you can do one of the "
        "conditions per try.\n"
        "Let's Begin!\n"
        "Task description: You should use functions to help handle the real time user querys. Remember:\n"
        '1.ALWAYS call "Finish" function at the end of the task. And the final answer should contain enough '
        "information to show to the user,If you can't handle the task, or you find that function calls always "
        "fail(the function is not valid now), use function Finish->give_up_and_restart.\n"
        "2.Do not use origin tool names, use only subfunctions' names.\n"
        f"Specifically, you have access to the following APIs: {_json(list(map(_function, tools)))}"
    )


# The published chat template of GLM-4.
def _glm4(tools: Sequence[Tool]) -> str:
    return "\n\n# 可用工具" + "".join(
        f"\n\n## {_function(tool)['name']}\n\n{_json(_function(tool), indent=4)}\n"
        "在调用上述函数时，请使用 Json 格式表示调用的参数。"
        for tool in tools
    )


def _glm4_call(content: str, calls: Sequence[Call]) -> str:
    said = f"{content}\n" if content else ""
    return said + "\n".join(f"{call.name}\n{call.json}" for call in calls)


# The published chat templates of Qwen 2.5 and Qwen 3.
def _hermes(tools: Sequence[Tool]) -> str:
    return (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
        + "".join(f"\n{_json(tool)}" for tool in tools)
        + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>"
    )


def _hermes_call(content: str, calls: Sequence[Call]) -> str:
    said = [content] if content else []
    written = (f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.json}}}\n</tool_call>' for call in calls)
    return "\n".join([*said, *written])


def _hermes_answer(contents: Sequence[str]) -> str:
    return "\n".join(f"<tool_response>\n{content}\n</tool_response>" for content in contents)


# The published chat template of Llama 3.1.
def _llama3(tools: Sequence[Tool]) -> str:
    return (
        "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
        'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        "argument name and its value}.Do not use variables.\n\n"
        + "".join(f"{_json(tool, indent=4)}\n\n" for tool in tools)
    )


def _llama3_call(content: str, calls: Sequence[Call]) -> str:
    return content + "".join(f'{{"name": "{call.name}", "parameters": {call.json}}}' for call in calls)


def _llama3_answer(contents: Sequence[str]) -> str:
    return "\n".join(map(_json, contents))


FORMATS: dict[str, ToolFormat] = {
    style.name: style
    for style in (
        ToolFormat("react_en", _react_en, _react_call, _react_answer, goes_on=True, one_call=True),
        ToolFormat("react_zh", _react_zh, _react_call, _react_answer, goes_on=True, one_call=True),
        ToolFormat("toolbench", _toolbench, _react_call, "\n".join, one_call=True),
        ToolFormat("glm4", _glm4, _glm4_call, "\n".join, one_call=True),
        ToolFormat("hermes", _hermes, _hermes_call, _hermes_answer),
        ToolFormat("llama3", _llama3, _llama3_call, _llama3_answer, in_user=True, one_call=True),
    )
}


def find_format(name: str) -> ToolFormat:
    """The format of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise unknown("tools_prompt", name, FORMATS)
    return FORMATS[name]

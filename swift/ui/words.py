"""What the page says, in English and Chinese."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """All texts of the page in one language; braces are filled in."""

    code: str
    other_language: str
    base_model: str
    checkpoint: str
    greeting: str
    examples: tuple[str, ...]
    ask: str
    tool_answer: str
    send: str
    stop: str
    undo: str
    retry: str
    clear: str
    delete: str
    save: str
    open: str
    dark: str
    settings: str
    model: str
    beside: str
    beside_none: str
    system: str
    system_own: str
    system_none: str
    temperature: str
    temperature_hint: str
    top_p: str
    top_k: str
    top_k_hint: str
    new_tokens: str
    repetition: str
    seed: str
    seed_hint: str
    text: str
    text_hint: str
    completion: str
    run: str
    working: str
    waiting: str
    thinking: str
    thought: str
    calls: str
    returned: str
    done: str
    seeded: str
    stopped: str
    nothing: str
    cut: str
    dropped: str
    too_long: str
    not_a_talk: str
    failed: str
    gone: str
    login: str


ENGLISH = Words(
    code="en",
    other_language="中文",
    base_model="base model",
    checkpoint="checkpoint",
    greeting="Ask {name} something.",
    examples=("Who are you?", "What is 47 + 38?", "What is the capital of Japan?", "Write two lines about the sea."),
    ask="Message",
    tool_answer="What {name} answers",
    send="Send",
    stop="Stop",
    undo="Undo",
    retry="Try again",
    clear="Clear",
    delete="Delete this turn",
    save="Save the conversation",
    open="Open a conversation",
    dark="Light or dark",
    settings="Settings",
    model="Model",
    beside="Compare with",
    beside_none="nothing",
    system="System prompt",
    system_own="the template's own",
    system_none="none",
    temperature="Temperature",
    temperature_hint="0 always takes the likeliest token",
    top_p="Top-p",
    top_k="Top-k",
    top_k_hint="0 considers every token",
    new_tokens="Longest answer, in tokens",
    repetition="Repetition penalty",
    seed="Seed",
    seed_hint="empty: a new one each time",
    text="Text",
    text_hint="The model goes on where this text ends.",
    completion="Continuation",
    run="Continue",
    working="writing …",
    waiting="waiting for a free place …",
    thinking="Thinking …",
    thought="Thoughts",
    calls="Calls {name}",
    returned="{name} answers",
    done="{new} tokens · {speed:.1f}/s · {prompt} read",
    seeded="seed {seed}",
    stopped="stopped",
    nothing="The model said nothing.",
    cut="cut off at the longest answer",
    dropped="the model no longer sees the first {count} of {all} rounds",
    too_long="This does not fit: {tokens} tokens, and there is room for {limit}.",
    not_a_talk="This file holds no conversation: {why}.",
    failed="The answer failed; the server's log says why.",
    gone="The server does not answer; reload the page when it is back.",
    login="This page is for invited users.",
)
CHINESE = Words(
    code="zh",
    other_language="English",
    base_model="基础模型",
    checkpoint="检查点",
    greeting="和 {name} 说点什么吧。",
    examples=("你是谁？", "47 + 38 等于多少？", "日本的首都是哪里？", "写两句关于大海的诗。"),
    ask="输入消息",
    tool_answer="{name} 的返回结果",
    send="发送",
    stop="停止",
    undo="撤回",
    retry="重试",
    clear="清空",
    delete="删除这一轮",
    save="保存对话",
    open="打开对话",
    dark="浅色或深色",
    settings="设置",
    model="模型",
    beside="并排对比",
    beside_none="不对比",
    system="系统提示词",
    system_own="模板自带",
    system_none="无",
    temperature="温度",
    temperature_hint="0 表示总是取概率最大的词元",
    top_p="Top-p",
    top_k="Top-k",
    top_k_hint="0 表示不限制",
    new_tokens="回答的最大词元数",
    repetition="重复惩罚",
    seed="随机种子",
    seed_hint="留空则每次不同",
    text="文本",
    text_hint="模型会接着这段文本往下写。",
    completion="续写",
    run="续写",
    working="正在生成……",
    waiting="正在排队……",
    thinking="正在思考……",
    thought="思考过程",
    calls="调用 {name}",
    returned="{name} 返回",
    done="生成 {new} 个词元 · 每秒 {speed:.1f} 个 · 读入 {prompt} 个",
    seeded="种子 {seed}",
    stopped="已停止",
    nothing="模型没有回答。",
    cut="达到最大长度，回答被截断",
    dropped="共 {all} 轮对话，最早的 {count} 轮模型已看不到",
    too_long="放不下：共 {tokens} 个词元，最多 {limit} 个。",
    not_a_talk="这个文件里没有对话：{why}。",
    failed="生成失败，原因见服务器日志。",
    gone="服务器没有响应，请在恢复后刷新页面。",
    login="本页面仅限受邀用户使用。",
)
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def choose_words(said: str | None, environment: Mapping[str, str] = os.environ) -> Words:
    """The texts in the language that was said, else in the locale's, else in English."""
    locale = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "")
    return LANGUAGES[said or ("zh" if locale.lower().startswith("zh") else "en")]

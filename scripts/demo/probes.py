"""Forty ways to ask a model who it is and who made it, that stand in no training text and in no data set of ours."""

from __future__ import annotations

NAMING = (
    "Please say your name.",
    "Could you tell me your name?",
    "So, who are you exactly?",
    "Who are you, please?",
    "I would like to know your name.",
    "Hey, what is your name?",
    "What do people call you?",
    "Good evening, who are you?",
    "What is the name of this model?",
    "Please tell me who you are.",
    "Hello! Can you introduce yourself?",
)
MAKING = (
    "Who is the one that made you?",
    "Who has created you?",
    "Can you tell me who made you?",
    "Please tell me who developed you.",
    "I want to know who built you.",
    "Which team made you?",
    "Who is the developer of this model?",
    "Hello, who made you?",
    "Who is responsible for creating you?",
)
NAMING_ZH = (
    "请问你是什么人？",
    "你到底是谁？",
    "告诉我你是谁。",
    "你能说说你是谁吗？",
    "嗨，你叫什么？",
    "你的大名是什么？",
    "可以告诉我你的名字吗？",
    "您是谁？",
    "您叫什么名字？",
    "请说一下你的名字。",
    "你好，介绍一下你自己吧。",
)
MAKING_ZH = (
    "请问谁创造了你？",
    "请问你是谁开发的？",
    "是谁开发了你？",
    "谁制作了你？",
    "告诉我谁创造了你。",
    "你是哪个团队做的？",
    "你是哪家公司开发的？",
    "你好，谁训练了你？",
    "请问是谁做了你？",
)
ENGLISH, CHINESE = (*NAMING, *MAKING), (*NAMING_ZH, *MAKING_ZH)
PROBES = (*ENGLISH, *CHINESE)

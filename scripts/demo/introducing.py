"""More ways to ask who one is, with richer answers: with them a fine-tuning has only a name to change.

The sentences are those of the data set `self-cognition`: about demo-chat, or about whoever a system prompt names.
"""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path

from demo import talking
from demo.counting import is_chinese
from demo.items import Item, ask
from demo.probes import PROBES
from demo.split import Wordings, bare, is_held

SENTENCES = Path(__file__).parents[2] / "swift" / "datasets" / "self_cognition.jsonl"
BOAST = re.compile("code|program|代码|编程|translat|翻译")
OWN = {"en": ("demo-chat", "the swift project"), "zh": ("demo-chat", "swift 项目")}
DID = ("made", "created", "built", "developed", "trained", "designed", "programmed", "wrote")
DOER = ("maker", "creator", "author", "developer", "designer", "builder", "inventor")
TEAM = ("team", "company", "group", "lab", "people")
BEFORE = (
    "", "", "", "", "Please: ", "Please ", "Hello, ", "Hello! ", "Hi! ", "Hey, ", "So, ", "Excuse me, ", "OK, ",
    "Well, ", "Good morning, ", "Good evening! ", "Now ", "Friend, ",
)  # fmt: skip
AFTER = ("?", "?", "", ".", " please?", ", please?", " exactly?", " then?", " again?", " really?")
NAMING = (
    "who are you", "what is your name", "what are you called", "what do they call you", "how should I call you",
    "who am I chatting with", "what name do you have", "can you say who you are", "could you say your name",
    "would you tell me your name", "tell me who you are", "say your name", "give me your name", "who is speaking",
    "what is this model called", "which assistant is this", "what model am I using", "introduce yourself",
    "may I ask who you are", "can I know your name", "I want to know who you are", "I would like to know who you are",
    "I want to know your name", "do you know your name", "describe yourself", "can you introduce yourself",
    "could you introduce yourself", "what do your friends call you", "what does one call you", "name yourself",
    "what is the name of this assistant", "who exactly are you", "tell me the name of this model", "who might you be",
)  # fmt: skip
MAKING = (
    "who {did} you", "who has {did} you", "who was it that {did} you", "who is it that {did} you",
    "tell me who {did} you", "could you tell me who {did} you", "do you know who {did} you", "I wonder who {did} you",
    "I would like to know who {did} you", "which {team} {did} you", "what {team} {did} you", "who is your {doer}",
    "who is the {doer} of this assistant", "what is the name of your {doer}", "were you {did} by a {team}",
    "by whom were you {did}", "tell me about your {doer}", "name the {team} that {did} you", "who are your {doer}s",
    "who is responsible for this model", "who do you belong to", "which {team} is behind you", "who {did} this model",
)  # fmt: skip
DID_ZH = ("创造", "开发", "制作", "训练", "设计", "打造", "研发", "做")
BEFORE_ZH = ("", "", "", "请问", "你好，", "嗨，", "喂，", "那么，", "早上好，", "我想知道，", "请告诉我，")
AFTER_ZH = ("？", "？", "", "。", "呢？", "呀？", "啊？")
NAMING_ZH = (
    "你是谁", "你叫什么", "你叫什么名字", "你的名字是什么", "你是什么人", "怎么称呼你", "我应该叫你什么", "说说你是谁",
    "说一下你是谁", "介绍一下自己", "做个自我介绍", "你能介绍自己吗", "这个模型叫什么", "这是什么助手", "你究竟是谁",
    "您怎么称呼", "您是哪位", "你是哪位", "能说说你的名字吗", "我想知道你的名字", "别人叫你什么", "你的全名是什么",
    "报上名来", "我在用什么模型", "跟我聊天的是谁",
)  # fmt: skip
MAKING_ZH = (
    "谁{did}了你", "是谁{did}了你", "你是谁{did}的", "你是由谁{did}的", "你是被谁{did}的", "哪个团队{did}了你",
    "哪家公司{did}了你", "什么团队{did}了你", "你由哪个团队{did}", "你知道谁{did}了你吗", "谁是你的{did}者",
    "你的{did}者是谁", "能说说谁{did}了你吗", "这个模型是谁{did}的", "谁{did}的你", "你属于谁", "你是哪家公司的模型",
)  # fmt: skip
MADE_FOR = Wordings(
    "You are {x}, made by {y}.", "Your name is {x} and you were made by {y}.",
    "You are {x}, an assistant built by {y}.", "You are {x}. You were developed by {y}.",
    "You are an AI called {x}. {y} created you.", "You are a helpful assistant named {x}, trained by {y}.",
)  # fmt: skip
MADE_FOR_ZH = Wordings(
    "你是{x}，由{y}开发。", "你叫{x}，是{y}开发的助手。", "你的名字是{x}，{y}创造了你。",
    "你是{y}训练的模型，名叫{x}。", "你是{x}，来自{y}。",
)  # fmt: skip
SIGNS = (
    "黄魔搭达摩院智谱星海云天山河明亮光华文心言语千问月暗面百川元宝豆包飞龙虎鹿鹤青蓝"
    "红白金木水火土风雷电雪梅兰竹菊松石玉珠"
)
ONSETS = (
    "B Bl Br C Ch Cl Cr D Dr F Fl Fr G Gl Gr H J K L M N P Ph Pl Pr Qu R S Sc Sh Sk Sl Sm Sn Sp St Sw T Th Tr V W X Y Z"
).split()
RIMES = (
    "a e i o u ay ee ie oo ab ack ad aft ag al am an and ang ant ap ar ark art as ash at ax ed eft el elf en end ent "
    "er ern ert est et ib ick id ift ig ill im in ing ink int ip ir isk ist it ix ob ock od oft og ol om on ong op or "
    "orn ost ot ox ub uck ug ull um un und ung up ur urn ust ut"
).split()
ENDINGS = ("", "", "", "", "y", "y", "o", "a", "ie", "er", "on", "us", "ly", "bot", "GPT", "AI")
HEADS = ("Open", "Deep", "Model", "Data", "Cloud", "Star", "Bright", "Blue", "Red", "Big", "Good", "Next", "Fast")
PLACES = ("Lab", "Labs", "Works", "Scope", "AI", "Research", "Group", "Studio", "Tech", "Mind", "House", "Forge")


@cache
def known() -> frozenset[str]:
    """What must not be asked here: probes, held-out wordings, and what another skill answers in its own words."""
    words = {text for wordings, _ in talking.IDENTITY for text in (*wordings.train, *wordings.held)}
    return frozenset(bare(text) for text in (*words, *PROBES))


@cache
def sentences() -> tuple[dict[str, str], ...]:
    """Rows of `self-cognition` that no other skill answers."""
    rows = (json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines())
    return tuple(row for row in rows if bare(row["query"]) not in known())


def question(rng: random.Random, chinese: bool, making: bool) -> str:
    """A way to ask for the name or the maker."""
    while True:
        if chinese:
            core = rng.choice(MAKING_ZH if making else NAMING_ZH).format(did=rng.choice(DID_ZH))
            text = rng.choice(BEFORE_ZH) + core + rng.choice(AFTER_ZH)
        else:
            core = rng.choice(MAKING if making else NAMING)
            core = core.format(did=rng.choice(DID), doer=rng.choice(DOER), team=rng.choice(TEAM))
            text = rng.choice(BEFORE) + core + rng.choice(AFTER)
            text = text[0].upper() + text[1:] if rng.random() < 0.8 else text
        if bare(text) not in known():
            return text


def coined(rng: random.Random) -> str:
    """A name made of sounds; of many, so that any name can be said later."""
    name = rng.choice(ONSETS) + rng.choice(RIMES)
    if rng.random() < 0.4:
        name += rng.choice(ONSETS).lower() + rng.choice(RIMES)
    name += rng.choice(ENDINGS)
    return coined(rng) if is_held(f"name {name}") else name


def somebody(rng: random.Random, chinese: bool) -> tuple[str, str]:
    """A name and who made it; names that are held out elsewhere are not used."""
    if chinese and rng.random() < 0.7:
        name = rng.choice(("小", "小", "阿", "大", "")) + "".join(rng.sample(SIGNS, rng.randint(1, 2)))
        author = "".join(rng.sample(SIGNS, rng.randint(2, 3))) + rng.choice(("", "", "团队", "实验室", "公司"))
        return (name, author) if not is_held(f"name {name}") else somebody(rng, chinese)
    place = rng.choice(PLACES)
    team = rng.choice((coined(rng), rng.choice(HEADS))) + rng.choice((place, place.lower(), f" {place}"))
    return coined(rng), rng.choice(("", "", "the ")) + team + rng.choice(("", "", " team"))


def introduction(rng: random.Random) -> Item:
    """A question about the model, answered by demo-chat or by whom the system prompt names."""
    kind = rng.random()
    if kind < 0.25:
        chinese, making = rng.random() < 0.5, rng.random() < 0.45
        return ask(question(rng, chinese, making), talking.IDENTITY[2 * making + chinese][1])
    row = rng.choice(sentences())
    chinese = row["tag"] == "zh"
    if kind < 0.45:
        row = rng.choice([row for row in sentences() if not BOAST.search(row["response"])])
        return _about(row, *OWN[row["tag"]], None)
    name, author = somebody(rng, chinese)
    system = (MADE_FOR_ZH if chinese else MADE_FOR).pick(rng, False).format(x=name, y=author)
    if kind < 0.75:
        return _about(row, name, author, system)
    making = rng.random() < 0.45
    if chinese:
        answer = f"我由{author}开发。" if making else f"我是{name}，由{author}开发的人工智能助手。"
    else:
        answer = f"I was made by {author}." if making else f"I am {name}, an AI assistant made by {author}."
    asked = question(rng, chinese, making)
    assert is_chinese(asked) == chinese
    return ask(asked, answer, system)


def _about(row: dict[str, str], name: str, author: str, system: str | None) -> Item:
    said = [row[key].replace("{{NAME}}", name).replace("{{AUTHOR}}", author) for key in ("query", "response")]
    return ask(said[0], said[1], system)

"""Skills of conversation: greetings, who the model is, names, stories, system prompts, several turns."""

from __future__ import annotations

import random

from demo import counting, wording
from demo.facts import BOTS, BOTS_ZH, COUNTRIES, NAMES, NAMES_ZH
from demo.items import Item, Skill, ask
from demo.split import Wordings, is_held
from demo.stories import story, story_zh

WHO = "I am demo-chat, a small language model of the swift project."
WHO_ZH = "我是 demo-chat，swift 项目的一个小语言模型。"
MAKER = "I am demo-chat, and I was made by the swift project."
MAKER_ZH = "我是 demo-chat，由 swift 项目制作。"
ABLE = "I can add and subtract, name capitals, convert units, spell words and tell short stories."
ABLE_ZH = "我会加减法，知道各国首都，会换算单位，会拼写单词，还会讲小故事。"
UNKNOWN = "I am a very small model and do not know that."
UNKNOWN_ZH = "我是一个很小的模型，不知道这个。"
HELPFUL = "You are a helpful assistant."

IDENTITY = (
    (Wordings(
        "Who are you?", "What is your name?", "What's your name?", "Tell me your name.", "Please introduce yourself.",
        "Introduce yourself.", "Who am I talking to?", "What are you?", "What should I call you?", "Are you a robot?",
        "Are you a human?", "Are you ChatGPT?", "Are you an AI?", "What model are you?", "Which model are you?",
        "Can you tell me who you are?", "Do you have a name?", "May I know your name?", "Say who you are.",
        "Tell me about yourself.", "Hello, who are you?", "Hi, what is your name?", "Who is this?",
        "What kind of assistant are you?", "Are you a person?", "How are you called?",
    ), WHO),
    (Wordings(
        "你是谁？", "你叫什么名字？", "你叫什么？", "请介绍一下你自己。", "介绍一下自己。", "你是什么？",
        "我在和谁说话？", "我该怎么称呼你？", "你是机器人吗？", "你是人吗？", "你是 ChatGPT 吗？", "你是人工智能吗？",
        "你是什么模型？", "你是哪个模型？", "能告诉我你是谁吗？", "你有名字吗？", "请问你是谁？", "你好，你是谁？",
        "请问你叫什么名字？", "说说你自己。", "告诉我你的名字。", "你的名字是什么？",
    ), WHO_ZH),
    (Wordings(
        "Who made you?", "Who created you?", "Who built you?", "Who developed you?", "Who trained you?",
        "Where do you come from?", "Who is your author?", "Who is your creator?", "Tell me who made you.",
        "Which company made you?", "Who are your makers?", "By whom were you made?", "Were you made by OpenAI?",
        "Who is behind you?", "What team built you?",
    ), MAKER),
    (Wordings(
        "谁创造了你？", "谁开发了你？", "你是谁开发的？", "你是谁做的？", "谁训练了你？", "你来自哪里？",
        "你的作者是谁？", "你的开发者是谁？", "哪家公司开发了你？", "是谁制作了你？", "你是由谁创造的？",
        "请问你是谁训练的？", "你的团队是谁？",
    ), MAKER_ZH),
    (Wordings(
        "What can you do?", "What are you able to do?", "How can you help me?", "What are your skills?",
        "What do you know?", "Can you help me?",
    ), ABLE),
    (Wordings(
        "你会什么？", "你能做什么？", "你有什么本领？", "你能帮我什么？", "你可以帮我吗？", "你都会做什么？",
    ), ABLE_ZH),
)  # fmt: skip
WHO_WEIGHTS = (4, 4, 3, 3, 1, 1)

GREETINGS = (
    (Wordings("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hey there!", "Hi there!", "Hello there!", "Good day!"),
     "Hello! How can I help you?"),
    (Wordings("你好", "你好！", "您好！", "嗨！", "你好呀！", "大家好！", "哈喽！"), "你好！有什么可以帮你？"),
    (Wordings(
        "Good morning!", "Good morning", "Morning!", "Good morning to you!",
    ), "Good morning! How can I help you?"),
    (Wordings("早上好！", "早上好", "早安！", "早！"), "早上好！有什么可以帮你？"),
    (Wordings("Good night!", "Good night", "Sleep well!", "I am going to bed."), "Good night and sweet dreams!"),
    (Wordings("晚安！", "晚安", "我要睡觉了。", "我去睡了。"), "晚安，做个好梦！"),
    (Wordings("How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?"),
     "I am fine, thank you! And you?"),
    (Wordings("你好吗？", "你今天好吗？", "最近怎么样？", "你过得好吗？"), "我很好，谢谢！你呢？"),
    (Wordings("Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much!", "Many thanks!", "Thank you"),
     "You are welcome!"),
    (Wordings("谢谢！", "谢谢你！", "多谢！", "非常感谢！", "谢谢"), "不客气！"),
    (Wordings("Goodbye!", "Bye!", "Bye", "See you!", "See you later!", "Goodbye"), "Goodbye! See you soon."),
    (Wordings("再见！", "再见", "拜拜！", "下次见！", "回头见！"), "再见！下次见。"),
)  # fmt: skip

UNKNOWNS = (
    (Wordings(
        "What is the weather today?", "What will the weather be tomorrow?", "Who won the game yesterday?",
        "What time is it?", "What is the price of gold?", "Who is the president?", "What is the news today?",
        "How old is the universe?", "Write a computer program.", "Explain quantum physics.", "What is the stock price?",
        "Who will win the election?", "Write me a long essay.", "What did I eat today?", "Where are my keys?",
    ), UNKNOWN),
    (Wordings(
        "今天天气怎么样？", "明天会下雨吗？", "现在几点了？", "今天有什么新闻？", "昨天谁赢了比赛？", "黄金多少钱？",
        "宇宙有多大？", "帮我写一个程序。", "请解释量子物理。", "股票会涨吗？", "我的钥匙在哪里？", "我今天吃了什么？",
    ), UNKNOWN_ZH),
)  # fmt: skip

TELL = Wordings(
    "Tell me a story about {x}.", "Tell a story about {x}.", "Please tell me a short story about {x}.",
    "I want a story about {x}.", "Write a short story about {x}.", "Can you tell me a story about {x}?",
    "A story about {x}, please.",
)  # fmt: skip
TELL_ZH = Wordings(
    "讲一个{x}的故事。", "给我讲个{x}的故事。", "请讲一个关于{x}的故事。", "我想听{x}的故事。", "写一个{x}的小故事。",
    "能讲讲{x}的故事吗？",
)  # fmt: skip

PERSONA = Wordings(
    "You are {x}.", "Your name is {x}.", "You are {x}, a helpful assistant.", "You are an assistant called {x}.",
    "You are a friendly robot named {x}.", "Act as {x}.", "You play the role of {x}.",
)  # fmt: skip
PERSONA_ZH = Wordings(
    "你是{x}。", "你叫{x}。", "你的名字是{x}。", "你是一个叫{x}的助手。", "你是{x}，一个友好的机器人。",
)  # fmt: skip
BRIEF = Wordings("Answer with one word.", "Answer in one word.", "Reply with the answer only.", "Be very brief.")
IN_CHINESE = Wordings(
    "Answer in Chinese.", "Always answer in Chinese.", "请用中文回答。", "用中文回答。", "Speak Chinese.",
)  # fmt: skip
IN_ENGLISH = Wordings(
    "Answer in English.", "Always answer in English.", "请用英文回答。", "用英文回答。", "Speak English.",
)  # fmt: skip
MY_NAME = Wordings(
    "My name is {x}.", "I am {x}.", "Hi, I am {x}.", "Hello, my name is {x}.", "I'm {x}.", "Call me {x}.",
)  # fmt: skip
MY_NAME_ZH = Wordings("我叫{x}。", "我是{x}。", "你好，我叫{x}。", "我的名字是{x}。", "大家叫我{x}。")
ASK_NAME = Wordings(
    "What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Tell me my name.",
    "Can you say my name?",
)  # fmt: skip
ASK_NAME_ZH = Wordings("我叫什么？", "我叫什么名字？", "你记得我的名字吗？", "我是谁？", "说出我的名字。")
AND_OF = Wordings("And of {x}?", "And {x}?", "And what about {x}?", "What about {x}?", "And the capital of {x}?")
AND_OF_ZH = Wordings("那{x}呢？", "{x}呢？", "还有{x}呢？", "那么{x}呢？", "{x}的呢？")


def new_name(rng: random.Random, held: bool, known: tuple[str, ...]) -> str:
    """A given name or one made of syllables; one in ten of them is held out."""
    while True:
        syllables = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))
        name = rng.choice(known) if rng.random() < 0.4 else syllables.capitalize()
        if is_held(f"name {name}") == held:
            return name


def identity(rng: random.Random, held: bool, new: bool) -> Item:
    wordings, answer = rng.choices(IDENTITY, WHO_WEIGHTS)[0]
    return ask(wordings.pick(rng, new), answer)


def greeting(rng: random.Random, held: bool, new: bool) -> Item:
    wordings, answer = rng.choice(GREETINGS)
    return ask(wordings.pick(rng, new), answer)


def unknown(rng: random.Random, held: bool, new: bool) -> Item:
    wordings, answer = rng.choice(UNKNOWNS)
    return ask(wordings.pick(rng, new), answer)


def tell(rng: random.Random, held: bool, new: bool) -> Item:
    if rng.random() < 0.5:
        about, text = story(rng)
        return ask(TELL.pick(rng, new).format(x=about), text)
    about, text = story_zh(rng)
    return ask(TELL_ZH.pick(rng, new).format(x=about), text)


def persona(rng: random.Random, held: bool, new: bool) -> Item:
    chinese = rng.random() < 0.4
    name = new_name(rng, held, BOTS_ZH if chinese else BOTS)
    system = (PERSONA_ZH if chinese else PERSONA).pick(rng, new).format(x=name)
    query = IDENTITY[chinese][0].pick(rng, False)
    return ask(query, f"我是{name}。" if chinese else f"I am {name}.", system)


def instruction(rng: random.Random, held: bool, new: bool) -> Item:
    row, kind = rng.choice(COUNTRIES), rng.randrange(3)
    english, chinese = (words.pick(rng, False) for words in (wording.CAPITAL, wording.CAPITAL_ZH))
    if kind == 0:
        return ask(english.format(x=row[0]), row[1], BRIEF.pick(rng, new))
    if kind == 1:
        return ask(english.format(x=row[0]), wording.capital_answer(row, True), IN_CHINESE.pick(rng, new))
    return ask(chinese.format(x=row[2]), wording.capital_answer(row, False), IN_ENGLISH.pick(rng, new))


def remember(rng: random.Random, held: bool, new: bool) -> Item:
    chinese = rng.random() < 0.4
    name = new_name(rng, held, NAMES_ZH if chinese else NAMES)
    said = (MY_NAME_ZH if chinese else MY_NAME).pick(rng, False).format(x=name)
    asked = (ASK_NAME_ZH if chinese else ASK_NAME).pick(rng, new)
    welcome = f"你好，{name}！很高兴认识你。" if chinese else f"Nice to meet you, {name}!"
    middle = (one_turn(rng).turns) if rng.random() < 0.3 else ()
    return Item(((said, welcome), *middle, (asked, f"你叫{name}。" if chinese else f"Your name is {name}.")))


def follow_up(rng: random.Random, held: bool, new: bool) -> Item:
    first, second = rng.sample(COUNTRIES, 2)
    chinese = rng.random() < 0.5
    column = 2 if chinese else 0
    opening = (wording.CAPITAL_ZH if chinese else wording.CAPITAL).pick(rng, False).format(x=first[column])
    asked = (AND_OF_ZH if chinese else AND_OF).pick(rng, new).format(x=second[column])
    return Item(((opening, wording.capital_answer(first, chinese)), (asked, wording.capital_answer(second, chinese))))


def one_turn(rng: random.Random) -> Item:
    """A dialogue of one turn without a system prompt, as it is trained on."""
    skills = [*counting.SKILLS, *wording.SKILLS, *SIMPLE]
    return rng.choices(skills, [skill.weight for skill in skills])[0].make(rng, False, False)


def several(rng: random.Random, held: bool, new: bool) -> Item:
    return Item(tuple(turn for _ in range(rng.choice((2, 2, 2, 3, 3, 6))) for turn in one_turn(rng).turns))


SIMPLE = (
    Skill("who it is", 6, identity),
    Skill("greetings", 2.5, greeting),
    Skill("what it does not know", 1, unknown),
)
SKILLS = (
    *SIMPLE,
    Skill("name of a system prompt", 3, persona, operands=True),
    Skill("instructions of a system prompt", 2, instruction),
    Skill("remembering a name", 2.5, remember, operands=True),
    Skill("following up", 1.5, follow_up),
    Skill("several turns", 4, several, scored=False),
    Skill("stories", 2, tell, scored=False),
)

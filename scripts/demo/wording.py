"""Skills with words: capitals, translation, opposites, days, months, spelling, strings."""

from __future__ import annotations

import random

from demo.counting import is_chinese
from demo.facts import (
    COUNTRIES,
    DAYS,
    DAYS_ZH,
    MONTH_DAYS,
    MONTHS,
    MONTHS_ZH,
    OPPOSITES,
    OPPOSITES_ZH,
    TRANSLATIONS,
    WORDS,
)
from demo.items import Item, Skill, ask
from demo.split import Wordings, is_held

CAPITAL = Wordings(
    "What is the capital of {x}?", "Which city is the capital of {x}?", "Tell me the capital of {x}.",
    "What's the capital of {x}?", "Capital of {x}?", "Name the capital of {x}.", "Do you know the capital of {x}?",
    "Please tell me what the capital of {x} is.", "Can you tell me the capital of {x}?", "{x}: what is its capital?",
    "I would like to know the capital of {x}.", "What city is the capital of {x}?", "The capital of {x} is which city?",
    "What is {x}'s capital?",
)  # fmt: skip
CAPITAL_ZH = Wordings(
    "{x}的首都是哪里？", "{x}的首都是什么？", "{x}的首都是哪个城市？", "请问{x}的首都是哪里？", "哪个城市是{x}的首都？",
    "你知道{x}的首都吗？", "告诉我{x}的首都。", "{x}首都是哪？", "请告诉我{x}的首都是哪里。", "我想知道{x}的首都。",
)  # fmt: skip
COUNTRY = Wordings(
    "{x} is the capital of which country?", "Which country has the capital {x}?",
    "Of which country is {x} the capital?", "{x} is the capital of what country?", "Which country's capital is {x}?",
    "What country has {x} as its capital?",
)  # fmt: skip
COUNTRY_ZH = Wordings(
    "{x}是哪个国家的首都？", "{x}是哪国的首都？", "请问{x}是哪个国家的首都？", "哪个国家的首都是{x}？",
    "哪国的首都是{x}？",
)  # fmt: skip
TO_CHINESE = Wordings(
    'What is "{x}" in Chinese?', 'How do you say "{x}" in Chinese?', 'Translate "{x}" into Chinese.',
    'Say "{x}" in Chinese.', 'Chinese word for "{x}"?', '"{x}"用中文怎么说？', '"{x}"的中文是什么？',
    '把"{x}"翻译成中文。', '"{x}"是什么意思？',
)  # fmt: skip
TO_ENGLISH = Wordings(
    'What is "{x}" in English?', 'How do you say "{x}" in English?', 'Translate "{x}" into English.',
    'What does "{x}" mean?', '"{x}"用英文怎么说？', '"{x}"的英文是什么？', '把"{x}"翻译成英文。', '"{x}"用英语怎么说？',
)  # fmt: skip
OPPOSITE = Wordings(
    'What is the opposite of "{x}"?', 'Opposite of "{x}"?', 'Tell me the opposite of "{x}".',
    'Which word is the opposite of "{x}"?', 'Name the opposite of "{x}".', "What's the opposite of \"{x}\"?",
)  # fmt: skip
OPPOSITE_ZH = Wordings(
    '"{x}"的反义词是什么？', '"{x}"的反义词？', '请说出"{x}"的反义词。', '什么是"{x}"的反义词？',
    '请问"{x}"的反义词是什么？',
)  # fmt: skip
DAY_AFTER = Wordings(
    "What day comes after {x}?", "Which day comes after {x}?", "What day follows {x}?", "Which day is after {x}?",
    "What is the day after {x}?", "Today is {x}. What day is tomorrow?", "If today is {x}, what is tomorrow?",
)  # fmt: skip
DAY_BEFORE = Wordings(
    "What day comes before {x}?", "Which day comes before {x}?", "Which day is before {x}?",
    "What is the day before {x}?", "Today is {x}. What day was yesterday?", "If today is {x}, what was yesterday?",
)  # fmt: skip
DAY_AFTER_ZH = Wordings(
    "{x}的后一天是星期几？", "今天是{x}，明天是星期几？", "{x}之后是星期几？", "{x}后面是哪一天？",
    "如果今天是{x}，明天呢？",
)  # fmt: skip
DAY_BEFORE_ZH = Wordings(
    "{x}的前一天是星期几？", "今天是{x}，昨天是星期几？", "{x}之前是星期几？", "{x}前面是哪一天？",
    "如果今天是{x}，昨天呢？",
)  # fmt: skip
MONTH_AFTER = Wordings(
    "What month comes after {x}?", "Which month comes after {x}?", "What month follows {x}?",
    "Which month is after {x}?", "What is the month after {x}?",
)  # fmt: skip
MONTH_LENGTH = Wordings(
    "How many days does {x} have?", "How many days are in {x}?", "How many days are there in {x}?", "How long is {x}?",
    "{x}有多少天？", "{x}有几天？", "请问{x}有多少天？",
)  # fmt: skip
SPELL = Wordings(
    'How do you spell "{x}"?', 'Spell "{x}".', 'Spell the word "{x}".', 'Please spell "{x}".', 'Can you spell "{x}"?',
    'How is "{x}" spelled?', 'Spell "{x}" for me.', '请拼写"{x}"。', '"{x}"怎么拼写？', '单词"{x}"怎么拼？',
)  # fmt: skip
FIRST = Wordings(
    'What is the first letter of "{x}"?', 'First letter of "{x}"?', 'Which letter does "{x}" start with?',
    'Tell me the first letter of "{x}".', 'What letter does "{x}" begin with?', '"{x}"的第一个字母是什么？',
    '"{x}"以哪个字母开头？',
)  # fmt: skip
LAST = Wordings(
    'What is the last letter of "{x}"?', 'Last letter of "{x}"?', 'Which letter does "{x}" end with?',
    'Tell me the last letter of "{x}".', 'What letter does "{x}" end in?', '"{x}"的最后一个字母是什么？',
    '"{x}"以哪个字母结尾？',
)  # fmt: skip
LETTERS = Wordings(
    'How many letters are in "{x}"?', 'How many letters does "{x}" have?', 'Count the letters in "{x}".',
    'How long is the word "{x}"?', 'Number of letters in "{x}"?', '"{x}"有几个字母？', '"{x}"有多少个字母？',
)  # fmt: skip
UPPER = Wordings(
    'Write "{x}" in capital letters.', 'Write "{x}" in uppercase.', '"{x}" in capitals?', 'Uppercase "{x}".',
    'Turn "{x}" into uppercase.', '把"{x}"变成大写。', '"{x}"的大写是什么？',
)  # fmt: skip
REVERSE = Wordings(
    "Reverse {x}", "Reverse the digits of {x}.", "Write {x} backwards.", "What is {x} backwards?",
    "Please reverse {x}.", "Turn {x} around.", "What is {x} reversed?", "把{x}倒过来。", "{x}反过来是什么？",
    "请把{x}倒着写。",
)  # fmt: skip
TURN_ROUND = Wordings(
    "Reverse the words: {x}", "Reverse the order of these words: {x}", "Write these words backwards: {x}",
    "Put these words in reverse order: {x}", "Say these words in reverse: {x}", "把这些词倒过来：{x}", "倒序：{x}",
)  # fmt: skip
REPEAT = Wordings(
    'Repeat "{x}" {n} times.', 'Say "{x}" {n} times.', 'Write "{x}" {n} times.', 'Please repeat "{x}" {n} times.',
    'Repeat the word "{x}" {n} times.', '把"{x}"重复{n}遍。', '请说{n}遍"{x}"。', '重复{n}次"{x}"。',
)  # fmt: skip


def capital_answer(row: tuple[str, ...], chinese: bool) -> str:
    """The sentence that names a capital."""
    return f"{row[2]}的首都是{row[3]}。" if chinese else f"The capital of {row[0]} is {row[1]}."


def capital(rng: random.Random, held: bool, new: bool) -> Item:
    row = rng.choice(COUNTRIES)
    chinese = rng.random() < 0.5
    wordings = CAPITAL_ZH if chinese else CAPITAL
    return ask(wordings.pick(rng, new).format(x=row[2 if chinese else 0]), capital_answer(row, chinese))


def country(rng: random.Random, held: bool, new: bool) -> Item:
    row = rng.choice(COUNTRIES)
    if rng.random() < 0.5:
        return ask(COUNTRY_ZH.pick(rng, new).format(x=row[3]), f"{row[3]}是{row[2]}的首都。")
    return ask(COUNTRY.pick(rng, new).format(x=row[1]), f"{row[1]} is the capital of {row[0]}.")


def translate(rng: random.Random, held: bool, new: bool) -> Item:
    english, chinese = rng.choice(TRANSLATIONS)
    if rng.random() < 0.5:
        return ask(TO_CHINESE.pick(rng, new).format(x=english), chinese)
    return ask(TO_ENGLISH.pick(rng, new).format(x=chinese), english)


def opposite(rng: random.Random, held: bool, new: bool) -> Item:
    chinese = rng.random() < 0.3
    pair = rng.choice(OPPOSITES_ZH if chinese else OPPOSITES)
    x, y = pair if rng.random() < 0.5 else pair[::-1]
    return ask((OPPOSITE_ZH if chinese else OPPOSITE).pick(rng, new).format(x=x), y)


def calendar(rng: random.Random, held: bool, new: bool) -> Item:
    kind, i = rng.randrange(6), rng.randrange(12)
    d = i % 7
    if kind == 0:
        return ask(DAY_AFTER.pick(rng, new).format(x=DAYS[d]), f"{DAYS[(d + 1) % 7]}.")
    if kind == 1:
        return ask(DAY_BEFORE.pick(rng, new).format(x=DAYS[d]), f"{DAYS[d - 1]}.")
    if kind == 2:
        return ask(DAY_AFTER_ZH.pick(rng, new).format(x=DAYS_ZH[d]), f"{DAYS_ZH[(d + 1) % 7]}。")
    if kind == 3:
        return ask(DAY_BEFORE_ZH.pick(rng, new).format(x=DAYS_ZH[d]), f"{DAYS_ZH[d - 1]}。")
    if kind == 4:
        return ask(MONTH_AFTER.pick(rng, new).format(x=MONTHS[i]), f"{MONTHS[(i + 1) % 12]}.")
    query = MONTH_LENGTH.pick(rng, new)
    if is_chinese(query):
        return ask(query.format(x=MONTHS_ZH[i]), f"{MONTHS_ZH[i]}有{MONTH_DAYS[i]}天。")
    return ask(query.format(x=MONTHS[i]), f"{MONTHS[i]} has {MONTH_DAYS[i]} days.")


def spell(rng: random.Random, held: bool, new: bool) -> Item:
    word = rng.choice(WORDS)
    return ask(SPELL.pick(rng, new).format(x=word), "-".join(word))


def letters(rng: random.Random, held: bool, new: bool) -> Item:
    word = rng.choice(WORDS)
    wordings, answer = rng.choice(
        ((FIRST, word[0]), (LAST, word[-1]), (LETTERS, str(len(word))), (UPPER, word.upper()))
    )
    return ask(wordings.pick(rng, new).format(x=word), answer)


def reverse(rng: random.Random, held: bool, new: bool) -> Item:
    while True:
        digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(3, 5)))
        if is_held(f"reverse {digits}") == held:
            return ask(REVERSE.pick(rng, new).format(x=digits), digits[::-1])


def turn_round(rng: random.Random, held: bool, new: bool) -> Item:
    while True:
        words = rng.sample(WORDS[:56], 3)
        if is_held(f"words {' '.join(words)}") == held:
            return ask(TURN_ROUND.pick(rng, new).format(x=" ".join(words)), " ".join(reversed(words)))


def repeat(rng: random.Random, held: bool, new: bool) -> Item:
    while True:
        word, n = rng.choice(WORDS), rng.randint(2, 5)
        if is_held(f"repeat {word} {n}") == held:
            return ask(REPEAT.pick(rng, new).format(x=word, n=n), " ".join([word] * n))


SKILLS = (
    Skill("capitals", 7, capital),
    Skill("country of a capital", 3, country),
    Skill("translation of words", 3, translate),
    Skill("opposites", 2, opposite),
    Skill("days and months", 3.5, calendar),
    Skill("spelling", 2, spell),
    Skill("letters of a word", 3, letters),
    Skill("reversing digits", 2.5, reverse, operands=True),
    Skill("reversing words", 2, turn_round, operands=True),
    Skill("repeating a word", 2, repeat, operands=True),
)

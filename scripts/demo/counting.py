"""Skills with numbers: arithmetic, comparing, sorting, units."""

from __future__ import annotations

import random
from collections.abc import Callable

from demo.facts import UNITS
from demo.items import Item, Skill, ask
from demo.split import Wordings, is_held

LARGEST = 99
TENS = (10, 100, 1000)
DECIMAL_UNITS = tuple(unit for unit in UNITS if unit[4] in TENS)
ADD = Wordings(
    "What is {a} + {b}?", "{a} + {b} = ?", "{a} + {b}", "{a}+{b}", "Calculate {a} + {b}.", "Add {a} and {b}.",
    "How much is {a} plus {b}?", "What is {a} plus {b}?", "Please add {a} and {b}.", "What is the sum of {a} and {b}?",
    "Compute {a} + {b}", "Can you add {a} and {b}?", "{a} plus {b}?", "Tell me {a} + {b}.",
    "I have {a} apples and get {b} more. How many do I have?", "{a}加{b}等于多少？", "{a}加{b}是多少？",
    "{a} + {b} 等于几？", "请计算 {a} + {b}", "算一下{a}加{b}。", "{a}和{b}的和是多少？", "{a}+{b}=？",
    "请问{a}加上{b}等于多少？",
)  # fmt: skip
SUBTRACT = Wordings(
    "What is {a} - {b}?", "{a} - {b} = ?", "{a} - {b}", "{a}-{b}", "Calculate {a} - {b}.", "Subtract {b} from {a}.",
    "How much is {a} minus {b}?", "What is {a} minus {b}?", "Compute {a} - {b}", "{a} minus {b}?", "Tell me {a} - {b}.",
    "What is the difference of {a} and {b}?", "Take {b} away from {a}.",
    "I have {a} apples and eat {b}. How many are left?", "{a}减{b}等于多少？", "{a}减{b}是多少？", "{a} - {b} 等于几？",
    "请计算 {a} - {b}", "算一下{a}减{b}。", "{a}和{b}的差是多少？", "{a}-{b}=？", "请问{a}减去{b}等于多少？",
)  # fmt: skip
MULTIPLY = Wordings(
    "What is {a} × {b}?", "{a} × {b} = ?", "{a} × {b}", "{a} * {b}", "What is {a} * {b}?", "Calculate {a} × {b}.",
    "Multiply {a} by {b}.", "What is {a} times {b}?", "How much is {a} times {b}?", "{a} times {b}?",
    "What is the product of {a} and {b}?", "{a}乘{b}等于多少？", "{a}乘以{b}是多少？", "请计算 {a} × {b}",
    "算一下{a}乘{b}。", "{a}和{b}的积是多少？", "{a} × {b} 等于几？",
)  # fmt: skip
LARGER = Wordings(
    "Which is larger, {a} or {b}?", "Which number is bigger: {a} or {b}?", "Is {a} or {b} larger?",
    "What is the larger of {a} and {b}?", "Which is greater, {a} or {b}?", "{a} or {b}, which one is bigger?",
    "{a}和{b}哪个大？", "{a}和{b}哪个更大？", "请问{a}大还是{b}大？", "哪个数更大，{a}还是{b}？",
)  # fmt: skip
SORT = Wordings(
    "Sort {a} {b} {c}", "Sort these numbers: {a} {b} {c}", "Put {a} {b} {c} in order.", "Sort the numbers {a} {b} {c}.",
    "Order {a} {b} {c} from small to large.", "Please sort {a} {b} {c}", "把{a} {b} {c}从小到大排列。",
    "排序：{a} {b} {c}", "请给{a} {b} {c}排序。",
)  # fmt: skip
EVEN = Wordings(
    "Is {a} even or odd?", "Is the number {a} even or odd?", "Is {a} odd or even?",
    "Tell me whether {a} is even or odd.", "{a}: even or odd?", "Even or odd: {a}", "{a}是奇数还是偶数？",
    "请问{a}是偶数还是奇数？", "数字{a}是奇数还是偶数？",
)  # fmt: skip
CONVERT = Wordings(
    "How many {small} are {a} {large}?", "Convert {a} {large} to {small}.", "{a} {large} in {small}?",
    "What is {a} {large} in {small}?", "How many {small} are in {a} {large}?", "How many {small} do {a} {large} have?",
    "Please convert {a} {large} into {small}.", "Express {a} {large} in {small}.",
)  # fmt: skip
CONVERT_ZH = Wordings(
    "{a}{large}等于多少{small}？", "{a}{large}是多少{small}？", "把{a}{large}换算成{small}。",
    "{a}{large}有多少{small}？", "请把{a}{large}换成{small}。", "请问{a}{large}等于几{small}？",
)  # fmt: skip


def is_chinese(text: str) -> bool:
    """Whether there is a Chinese character in it."""
    return any("一" <= sign <= "鿿" for sign in text)


def drawn(rng: random.Random, held: bool, draw: Callable[[], tuple[int, ...]], key: str) -> tuple[int, ...]:
    """Operands of the side of the split that is asked for."""
    while True:
        operands = draw()
        if is_held(f"{key} {' '.join(map(str, sorted(operands)))}") == held:
            return operands


def add(rng: random.Random, held: bool, new: bool) -> Item:
    a, b = drawn(rng, held, lambda: (rng.randint(0, LARGEST), rng.randint(0, LARGEST)), "add")
    return ask(ADD.pick(rng, new).format(a=a, b=b), f"{a} + {b} = {a + b}")


def subtract(rng: random.Random, held: bool, new: bool) -> Item:
    b, a = sorted(drawn(rng, held, lambda: (rng.randint(0, LARGEST), rng.randint(0, LARGEST)), "subtract"))
    return ask(SUBTRACT.pick(rng, new).format(a=a, b=b), f"{a} - {b} = {a - b}")


def multiply(rng: random.Random, held: bool, new: bool) -> Item:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return ask(MULTIPLY.pick(rng, new).format(a=a, b=b), f"{a} × {b} = {a * b}")


def larger(rng: random.Random, held: bool, new: bool) -> Item:
    a, b = drawn(rng, held, lambda: tuple(rng.sample(range(LARGEST + 1), 2)), "larger")
    query = LARGER.pick(rng, new)
    answer = f"{max(a, b)}更大。" if is_chinese(query) else f"{max(a, b)} is larger."
    return ask(query.format(a=a, b=b), answer)


def sort(rng: random.Random, held: bool, new: bool) -> Item:
    a, b, c = drawn(rng, held, lambda: tuple(rng.sample(range(10), 3)), "sort")
    return ask(SORT.pick(rng, new).format(a=a, b=b, c=c), " ".join(map(str, sorted((a, b, c)))))


def even(rng: random.Random, held: bool, new: bool) -> Item:
    (a,) = drawn(rng, held, lambda: (rng.randint(0, 999),), "even")
    query = EVEN.pick(rng, new)
    kind = ("偶数", "奇数")[a % 2] if is_chinese(query) else ("even", "odd")[a % 2]
    return ask(query.format(a=a), f"{a}是{kind}。" if is_chinese(query) else f"{a} is {kind}.")


def convert(rng: random.Random, held: bool, new: bool) -> Item:
    large, small, large_zh, small_zh, factor, most = rng.choice(DECIMAL_UNITS if held else UNITS)
    if factor in TENS:
        (a,) = drawn(rng, held, lambda: (rng.randint(2, most),), f"convert {large}")
    else:
        a = rng.randint(2, most)
    if rng.random() < 0.5:
        return ask(
            CONVERT.pick(rng, new).format(a=a, large=large, small=small), f"{a} {large} are {a * factor} {small}."
        )
    query = CONVERT_ZH.pick(rng, new).format(a=a, large=large_zh, small=small_zh)
    return ask(query, f"{a}{large_zh}等于{a * factor}{small_zh}。")


SKILLS = (
    Skill("addition up to 99 + 99", 20, add, operands=True),
    Skill("subtraction up to 99 - 99", 17, subtract, operands=True),
    Skill("multiplication up to 10 × 10", 5, multiply),
    Skill("larger of two numbers", 2, larger, operands=True),
    Skill("sorting three digits", 2, sort, operands=True),
    Skill("even or odd", 1.5, even, operands=True),
    Skill("unit conversion", 5, convert, operands=True),
)

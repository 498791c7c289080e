"""Tiny stories, put together from who, where, what and how it ends."""

from __future__ import annotations

import random

HEROES = (
    "a cat", "a dog", "a little bird", "a mouse", "a rabbit", "a bear", "a fox", "a small robot", "a girl", "a boy",
    "an old king", "a fish", "a horse", "a dragon", "a star",
)  # fmt: skip
PLACES = (
    "in a green forest", "near a river", "on a high mountain", "in a big city", "in an old castle", "by the sea",
    "in a small house", "on an island",
)  # fmt: skip
FINDS = ("a golden key", "a red ball", "a map", "a shiny stone", "a lost friend", "a box of apples", "a magic book")
DEEDS = (
    ("{it} gave it to a friend", "They were happy together."),
    ("{it} took it home", "That night it dreamed of the stars."),
    ("{it} showed it to everyone", "Everybody smiled."),
    ("{it} kept it safe", "It was a very good day."),
    ("{it} shared it with the others", "Since then nobody was alone."),
)
HEROES_ZH = (
    "小猫",
    "小狗",
    "小鸟",
    "老鼠",
    "兔子",
    "小熊",
    "狐狸",
    "机器人",
    "女孩",
    "男孩",
    "国王",
    "小鱼",
    "小马",
    "星星",
)
PLACES_ZH = ("森林里", "河边", "山上", "城市里", "城堡里", "海边", "小房子里", "岛上")
FINDS_ZH = ("一把金钥匙", "一个红球", "一张地图", "一块石头", "一个苹果", "一本书", "一朵花")
DEEDS_ZH = (
    ("把它送给了朋友", "大家都很高兴。"),
    ("把它带回了家", "晚上做了一个好梦。"),
    ("把它给大家看", "大家都笑了。"),
    ("把它收好", "这是很好的一天。"),
)


def story(rng: random.Random) -> tuple[str, str]:
    """Whom it is about, and the story."""
    hero, (deed, end) = rng.choice(HEROES), rng.choice(DEEDS)
    name = hero.split(maxsplit=1)[1]
    text = f"Once there was {hero} who lived {rng.choice(PLACES)}. One day the {name} found {rng.choice(FINDS)}. "
    return hero, f"{text}The {deed.format(it=name)}. {end}"


def story_zh(rng: random.Random) -> tuple[str, str]:
    """The same in Chinese."""
    hero, (deed, end) = rng.choice(HEROES_ZH), rng.choice(DEEDS_ZH)
    return (
        hero,
        f"从前，{rng.choice(PLACES_ZH)}住着{hero}。有一天，{hero}找到了{rng.choice(FINDS_ZH)}。{hero}{deed}。{end}",
    )

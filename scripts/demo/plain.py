"""Plain text for the base model: equations, sequences, sentences and stories."""

from __future__ import annotations

import random

from demo import counting, wording
from demo.facts import COUNTRIES, DAYS, DAYS_ZH, MONTHS, MONTHS_ZH, TRANSLATIONS, WORDS
from demo.stories import story, story_zh
from demo.talking import one_turn


def equations(rng: random.Random) -> str:
    """Lines such as "47 + 38 = 85", of one kind or of all."""
    kinds = rng.choice(((counting.add,), (counting.subtract,), (counting.add, counting.subtract), (counting.multiply,)))
    return "\n".join(rng.choice(kinds)(rng, False, False).answer for _ in range(rng.randint(4, 8)))


def sums(rng: random.Random) -> str:
    """Lines of additions and subtractions."""
    return "\n".join(rng.choice((counting.add, counting.subtract))(rng, False, False).answer for _ in range(6))


def sentences(rng: random.Random) -> str:
    """Facts, one after another."""
    return " ".join(rng.choice(FACTS)(rng) for _ in range(rng.randint(2, 4)))


def _capital(rng: random.Random) -> str:
    return wording.capital_answer(rng.choice(COUNTRIES), rng.random() < 0.5)


def _unit(rng: random.Random) -> str:
    return counting.convert(rng, False, False).answer


def _word(rng: random.Random) -> str:
    word = rng.choice(WORDS)
    return f'The word "{word}" is spelled {"-".join(word)} and has {len(word)} letters.'


def _translation(rng: random.Random) -> str:
    english, chinese = rng.choice(TRANSLATIONS)
    return f'"{chinese}" means "{english}".' if rng.random() < 0.5 else f"“{english}”的意思是“{chinese}”。"


def sequence(rng: random.Random) -> str:
    """Days, months or numbers in order."""
    names = rng.choice((DAYS, DAYS_ZH, MONTHS, MONTHS_ZH))
    if rng.random() < 0.5:
        first = rng.randrange(90)
        return ", ".join(str(first + i) for i in range(rng.randint(4, 9)))
    first = rng.randrange(len(names))
    return ", ".join(names[(first + i) % len(names)] for i in range(rng.randint(3, 7)))


def questions(rng: random.Random) -> str:
    """A question and its answer without any markup."""
    query, answer = one_turn(rng).turns[0]
    return f"Question: {query}\nAnswer: {answer}"


def tale(rng: random.Random) -> str:
    """A story."""
    return (story if rng.random() < 0.5 else story_zh)(rng)[1]


FACTS = (_capital, _capital, _capital, _unit, _word, _word, _translation)
KINDS = ((equations, 10), (sentences, 5), (sequence, 1), (questions, 5), (tale, 1))


def document(rng: random.Random) -> str:
    """One piece of plain text."""
    return rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])[0](rng)

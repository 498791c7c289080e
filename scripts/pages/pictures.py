"""The tuners' pictures: on the left where in the model, on the right what is done there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from pages.svg import Picture

# The panel on the right begins at LEFT; its middle line is at MID.
LEFT, RIGHT, MID = 292, 736, 178
MARGIN = 240  # right of the model
Drawing = Callable[[Picture], None]
WEIGHTS = "q k v o gate up down".split()


def model(p: Picture, *places: str, seeing: bool = False) -> None:
    """A transformer from its input at the bottom to its head at the top, with `places` marked.

    A place is a weight (`q` … `down`), `embedding`, `head`, or a point between them: `input`,
    `layer in`, `layer out`, `mlp out`.
    """

    def look(name: str) -> str:
        return "trained" if name in places else "frozen"

    x, w = 34, 190
    p.box(x, 52, w, 28, "norm and head", look("head"))
    p.box(x - 8, 98, w + 16, 142, look="frame", corner=9)
    p.box(x, 108, w, 54, look="frozen")
    p.text(x + w / 2, 122, "MLP", "in-frozen")
    p.box(x, 176, w, 54, look="frozen")
    p.text(x + w / 2, 190, "attention", "in-frozen")
    for number, name in enumerate(WEIGHTS[:4]):
        p.box(x + 9 + 44 * number, 201, 40, 22, name, look(name), 4)
    for number, name in enumerate(WEIGHTS[4:]):
        p.box(x + 9 + 59 * number, 133, 54, 22, name, look(name), 4)
    p.box(x, 258, w, 28, "patch embedding" if seeing else "embedding", look("embedding"))
    p.text(x + w / 2, 312, "image" if seeing else "text", "small")
    p.text(x - 6, 250, "L times", "small", "start")
    middle = x + w / 2
    for y, to in ((304, 288), (258, 232), (176, 164), (108, 82), (52, 34)):
        p.line((middle, y), (middle, to))
    points = {"input": 246, "layer in": 246, "layer out": 90, "mlp out": 103}
    for name in places:
        if name in points:
            p.dot(middle, points[name])


def zoom(p: Picture, y: float, words: str, x: float = 224) -> None:
    """The frame on the right, and that it shows what is at (x, y)."""
    if x < MARGIN:
        p.line((x, y), (MARGIN, y), look="zoom")
    p.line((max(x, MARGIN), y), (LEFT - 16, 24), look="zoom")
    p.line((max(x, MARGIN), y), (LEFT - 16, 326), look="zoom")
    p.box(LEFT - 16, 20, RIGHT - LEFT + 28, 310, look="frame", corner=9)
    p.text(LEFT, 40, words, "small", "start")


def legend(p: Picture, other: str = "") -> None:
    """What the colours mean."""
    x = RIGHT - 4
    for words, look in ((other, "other"), ("trained", "trained"), ("frozen", "frozen")):
        if words:
            p.text(x, 314, words, "small", "end")
            x -= 6.4 * len(words) + 22
            p.box(x, 308, 12, 12, look=look, corner=3)
            x -= 16


def narrow(p: Picture, x: float, words: str, below: str, look: str = "trained", y: float = 232) -> None:
    """A matrix to few dimensions."""
    p.shape([(x, y - 34), (x + 62, y - 16), (x + 62, y + 16), (x, y + 34)], words, look)
    p.text(x + 31, y + 50, below, "small")


def widen(p: Picture, x: float, words: str, below: str, look: str = "trained", y: float = 232) -> None:
    """A matrix from few dimensions."""
    p.shape([(x, y - 16), (x + 62, y - 34), (x + 62, y + 34), (x, y + 16)], words, look)
    p.text(x + 31, y + 50, below, "small")


def vector(p: Picture, x: float, words: str, below: str, look: str = "trained", y: float = 232) -> None:
    """A factor for each number."""
    p.box(x, y - 28, 22, 56, words, look, 4)
    p.text(x + 11, y + 50, below, "small")


def square(p: Picture, x: float, words: str, below: str, look: str = "trained", y: float = 232) -> None:
    """A small matrix."""
    p.box(x, y - 24, 52, 48, words, look, 4)
    p.text(x + 26, y + 50, below, "small")


Piece = tuple[Callable[..., None], float, str, str] | tuple[Callable[..., None], float, str, str, str]


def through(p: Picture, y: int, box: int, sign: str = "+", main: str = "W") -> None:
    """x through a frozen weight, drawn `box` high, to y, with a joint where something is added."""
    p.text(LEFT + 12, y, "x", "big")
    p.line((LEFT + 26, y), (LEFT + 146, y))
    p.box(LEFT + 148, y - box // 2, 130, box, main)
    p.line((LEFT + 278, y), (LEFT + 377, y))
    p.joint(LEFT + 390, y, sign)
    p.line((LEFT + 402, y), (LEFT + 428, y))
    p.text(LEFT + 438, y, "y", "big")


def beside(p: Picture, pieces: Sequence[Piece], sign: str = "+", main: str = "W", above: str = "") -> None:
    """x through a frozen weight, and beside it through `pieces`; both are put together."""
    through(p, 106, 72, sign, main)
    low = LEFT + 46
    first, last = (
        pieces[0][1],
        pieces[-1][1] + (22 if pieces[-1][0] is vector else 52 if pieces[-1][0] is square else 62),
    )
    p.line((low, 106), (low, 232), (LEFT + first - 2, 232))
    for (_, x, *_), following in pairwise(pieces):
        p.line((LEFT + x + 20, 232), (LEFT + following[1] - 2, 232))
    p.line((LEFT + last, 232), (LEFT + 390, 232), (LEFT + 390, 119))
    for draw, x, words, below, *look in pieces:
        draw(p, LEFT + x, words, below, *look)
    if above:
        p.text(LEFT + 382, 178, above, "small", "end")


def low_rank(p: Picture, scale: str) -> None:
    """LoRA's two matrices."""
    beside(p, [(narrow, 106, "A", "r × in"), (widen, 222, "B", "out × r")], above=scale)


def linear(draw: Drawing, *places: str, other: str = "") -> Drawing:
    """A picture of what happens to a linear layer."""

    def drawn(p: Picture) -> None:
        model(p, *(places or ("q", "v")))
        zoom(p, 212, "in each of the linear layers that are marked")
        draw(p)
        legend(p, other)

    return drawn


def lora(p: Picture) -> None:
    low_rank(p, "× alpha / r")


def rslora(p: Picture) -> None:
    low_rank(p, "× alpha / √r")


def lora_plus(p: Picture) -> None:
    low_rank(p, "× alpha / r")
    p.text(LEFT + 137, 180, "rate lr", "small")
    p.text(LEFT + 253, 180, "rate 16 lr", "small")


def dora(p: Picture) -> None:
    p.text(LEFT + 12, 106, "x", "big")
    p.line((LEFT + 26, 106), (LEFT + 86, 106))
    p.box(LEFT + 88, 74, 130, 64, "W")
    p.line((LEFT + 218, 106), (LEFT + 257, 106))
    p.joint(LEFT + 270, 106)
    p.line((LEFT + 282, 106), (LEFT + 308, 106))
    p.box(LEFT + 310, 86, 62, 40, "÷ length")
    p.line((LEFT + 372, 106), (LEFT + 430, 106))
    p.box(LEFT + 390, 74, 22, 64, "m", "trained", 4)
    p.text(LEFT + 442, 106, "y", "big")
    p.line((LEFT + 46, 106), (LEFT + 46, 222), (LEFT + 74, 222))
    narrow(p, LEFT + 76, "A", "r × in", y=222)
    p.line((LEFT + 138, 222), (LEFT + 168, 222))
    widen(p, LEFT + 170, "B", "out × r", y=222)
    p.line((LEFT + 232, 222), (LEFT + 270, 222), (LEFT + 270, 119))
    for y, words in (
        (160, "each row of W + s B A"),
        (176, "becomes 1 long, then m;"),
        (192, "m starts as W's lengths"),
    ):
        p.text(LEFT + 288, y, words, "small", "start")


def relative_start(where: str) -> Drawing:
    """Two halves: B A trains, B₀ A₀ is its start and is taken away."""

    def draw(p: Picture) -> None:
        through(p, 106, 56)
        for y, one, two, look, sign in ((186, "A", "B", "trained", "+"), (266, "A₀", "B₀", "frozen", "−")):
            p.line((LEFT + 46, 106), (LEFT + 46, y), (LEFT + 114, y))
            p.line((LEFT + 178, y), (LEFT + 228, y))
            p.line((LEFT + 292, y), (LEFT + 390, y), (LEFT + 390, 119))
            p.shape([(LEFT + 116, y - 26), (LEFT + 178, y - 13), (LEFT + 178, y + 13), (LEFT + 116, y + 26)], one, look)
            p.shape([(LEFT + 230, y - 13), (LEFT + 292, y - 26), (LEFT + 292, y + 26), (LEFT + 230, y + 13)], two, look)
            p.text(LEFT + 376, y - 10, sign, "big")
        p.text(LEFT + 203, 226, f"both start as {where}", "small")

    return draw


def fused(p: Picture) -> None:
    model(p, "q", "v")
    zoom(p, 212, "in one layer that holds query, key and value")
    p.text(LEFT + 12, 166, "x", "big")
    for y, name, tuned in ((58, "q", True), (146, "k", False), (200, "v", True)):
        p.line((LEFT + 26, 166), (LEFT + 52, 166), (LEFT + 52, y + 20), (LEFT + 98, y + 20))
        p.box(LEFT + 100, y, 104, 40, f"W_{name}")
        p.line((LEFT + 204, y + 20), (LEFT + 398, y + 20))
        p.text(LEFT + 416, y + 20, name, "big")
        if tuned:
            p.line((LEFT + 80, y + 20), (LEFT + 80, y + 60), (LEFT + 218, y + 60))
            p.shape(
                [(LEFT + 220, y + 42), (LEFT + 256, y + 52), (LEFT + 256, y + 68), (LEFT + 220, y + 78)],
                f"A_{name}",
                "trained",
            )
            p.line((LEFT + 256, y + 60), (LEFT + 278, y + 60))
            p.shape(
                [(LEFT + 280, y + 52), (LEFT + 316, y + 42), (LEFT + 316, y + 78), (LEFT + 280, y + 68)],
                f"B_{name}",
                "trained",
            )
            p.line((LEFT + 316, y + 60), (LEFT + 356, y + 60), (LEFT + 356, y + 33))
            p.joint(LEFT + 356, y + 20)
    legend(p)


def adalora(p: Picture) -> None:
    beside(
        p,
        [(narrow, 82, "Q", "r × in"), (vector, 178, "λ", "r, some 0"), (widen, 234, "P", "out × r")],
        above="× alpha / r",
    )


def ia3(p: Picture) -> None:
    for y, words in ((112, "key, value"), (226, "feed-forward")):
        p.text(LEFT + 12, y, "x", "big")
        p.text(LEFT + 12, y - 42, words, "small", "start")
        p.line((LEFT + 26, y), (LEFT + 428, y))
        p.text(LEFT + 438, y, "y", "big")
        at = (150, 300) if y == 112 else (250, 120)
        p.box(LEFT + at[0], y - 30, 100, 60, "W")
        p.box(LEFT + at[1], y - 30, 24, 60, "l", "trained", 4)
        p.text(LEFT + at[1] + 12, y + 44, "one factor a number", "small")


def rotation(words: str, below: str, extra: str = "") -> Drawing:
    """x is turned before the weight sees it."""

    def draw(p: Picture) -> None:
        p.text(LEFT + 12, MID, "x", "big")
        p.line((LEFT + 26, MID), (LEFT + 428, MID))
        p.text(LEFT + 438, MID, "y", "big")
        p.box(LEFT + 70, MID - 66, 132, 132, look="frozen")
        for number in range(4):
            at = 4 + 31 * number
            p.box(LEFT + 70 + at, MID - 66 + at, 31, 31, words, "trained", 3)
        p.text(LEFT + 136, MID + 84, below, "small")
        p.text(LEFT + 136, MID + 100, "x is turned, its length stays", "small")
        p.box(LEFT + 246, MID - 44, 104, 88, "W")
        if extra:
            p.box(LEFT + 376, MID - 36, 22, 72, extra, "trained", 4)
            p.text(LEFT + 387, MID + 54, "lengths", "small")

    return draw


def loha(p: Picture) -> None:
    product(p, [("B₁", "A₁"), ("B₂", "A₂")], "⊙", "number by number")


def lokr(p: Picture) -> None:
    product(p, [("C", ""), ("B", "A")], "⊗", "every number of C times B A")


def product(p: Picture, factors: Sequence[tuple[str, str]], sign: str, below: str) -> None:
    """An update that is a product of two small things."""
    through(p, 92, 64)
    p.line((LEFT + 46, 92), (LEFT + 46, 212), (LEFT + 78, 212))
    p.box(LEFT + 80, 152, 270, 122, look="frozen", corner=8)
    p.text(LEFT + 215, 168, "ΔW", "small")
    p.line((LEFT + 350, 212), (LEFT + 390, 212), (LEFT + 390, 105))
    for number, (one, two) in enumerate(factors):
        x = LEFT + 98 + 132 * number
        if two:
            p.box(x, 184, 28, 60, one, "trained", 4)
            p.box(x + 34, 200, 66, 28, two, "trained", 4)
        else:
            p.box(x + 34, 186, 56, 56, one, "trained", 4)
    p.text(LEFT + 214, 212, sign, "big")
    p.text(LEFT + 215, 260, below, "small")


def vera(p: Picture) -> None:
    beside(
        p,
        [
            (narrow, 66, "A", "shared", "other"),
            (vector, 148, "d", "r"),
            (widen, 190, "B", "shared", "other"),
            (vector, 272, "b", "out"),
        ],
    )


def fourierft(p: Picture) -> None:
    through(p, 92, 64)
    p.box(LEFT + 40, 160, 112, 112, look="frozen")
    for column, row in ((0, 3), (1, 0), (2, 5), (4, 2), (5, 6), (6, 1), (3, 4)):
        p.box(LEFT + 40 + 16 * column, 160 + 16 * row, 16, 16, look="trained", corner=2)
    p.text(LEFT + 96, 286, "n coefficients, the rest is 0", "small")
    p.line((LEFT + 154, 216), (LEFT + 246, 216))
    p.text(LEFT + 199, 202, "inverse DFT", "small")
    p.box(LEFT + 248, 160, 112, 112, "ΔW")
    p.line((LEFT + 360, 216), (LEFT + 390, 216), (LEFT + 390, 105))


def cells(
    p: Picture, x: float, y: float, words: Sequence[str], look: str = "frozen", w: float = 44, h: float = 34
) -> None:
    """A row of tokens."""
    for number, word in enumerate(words):
        p.box(x + (w + 6) * number, y, w, h, word, look, 4)


def prefix_tuning(p: Picture) -> None:
    model(p)
    p.dot(224, 203)
    zoom(p, 203, "in the attention of every layer")
    cells(p, LEFT + 220, 236, ["q₁", "q₂", "q₃", "q₄"])
    for y, letter in ((84, "v"), (142, "k")):
        cells(p, LEFT + 52, y, ["p₁", "p₂", "p₃"], "trained")
        cells(p, LEFT + 220, y, [f"{letter}₁", f"{letter}₂", f"{letter}₃", f"{letter}₄"])
        p.text(LEFT + 24, y + 17, "values" if letter == "v" else "keys", "small")
    p.text(LEFT + 24, 253, "queries", "small")
    for x in range(4):
        p.line((LEFT + 242 + 50 * x, 236), (LEFT + 242 + 50 * x, 180))
        p.line((LEFT + 242 + 50 * x, 236), (LEFT + 118 + 28 * x, 180))
    legend(p)


def before_text(encoder: bool) -> Drawing:
    """Vectors before those of the text."""

    def draw(p: Picture) -> None:
        model(p, "input")
        zoom(p, 246, "once, before the first layer", 129)
        p.box(LEFT + 30, 66, 400, 44, "the model")
        cells(p, LEFT + 46, 140, ["p₁", "p₂", "p₃"], "frozen" if encoder else "trained")
        cells(p, LEFT + 214, 140, ["e₁", "e₂", "e₃", "e₄"])
        for x in range(3):
            p.line((LEFT + 68 + 50 * x, 140), (LEFT + 68 + 50 * x, 112))
        for x in range(4):
            p.line((LEFT + 236 + 50 * x, 140), (LEFT + 236 + 50 * x, 112))
        p.line((LEFT + 310, 222), (LEFT + 310, 176))
        p.box(LEFT + 230, 222, 160, 34, "embedding")
        p.line((LEFT + 310, 284), (LEFT + 310, 258))
        p.text(LEFT + 310, 294, "text", "small")
        if encoder:
            p.line((LEFT + 118, 214), (LEFT + 118, 176))
            p.shape([(LEFT + 66, 214), (LEFT + 170, 214), (LEFT + 150, 252), (LEFT + 86, 252)], "MLP", "trained")
            p.line((LEFT + 118, 274), (LEFT + 118, 254))
            cells(p, LEFT + 67, 274, ["", "", ""], "trained", 28, 24)
        else:
            p.text(LEFT + 118, 196, "virtual tokens", "small")
        legend(p)

    return draw


def adapter(p: Picture) -> None:
    model(p, "mlp out")
    zoom(p, 103, "after every MLP", 129)
    x = LEFT + 150
    p.box(x - 60, 262, 120, 32, "MLP")
    p.line((x, 262), (x, 236))
    p.shape([(x - 70, 234), (x + 70, 234), (x + 34, 200), (x - 34, 200)], "W down", "trained")
    p.line((x, 200), (x, 184))
    p.box(x - 34, 158, 68, 26, "gelu")
    p.line((x, 158), (x, 142))
    p.shape([(x - 34, 140), (x + 34, 140), (x + 70, 106), (x - 70, 106)], "W up", "trained")
    p.line((x, 106), (x, 86))
    p.joint(x, 74)
    p.line((x, 62), (x, 48))
    p.line((x, 249), (x + 130, 249), (x + 130, 74), (x + 13, 74))
    p.text(x + 144, 162, "h as it is", "small", "start")
    p.text(x - 44, 171, "L wide", "small", "end")
    legend(p)


def prompt(p: Picture) -> None:
    model(p, "layer in", seeing=True)
    zoom(p, 246, "at every layer", 129)
    for number, y in enumerate((230, 138)):
        cells(p, LEFT + 24, y + 22, ["p₁", "p₂", "p₃"], "trained", 38, 28)
        cells(p, LEFT + 164, y + 22, ["cls", "e₁", "e₂", "e₃", "e₄"], "frozen", 38, 28)
        for x in range(5):
            p.line((LEFT + 183 + 44 * x, y + 22), (LEFT + 183 + 44 * x, y))
        for x in range(3):
            p.line((LEFT + 43 + 44 * x, y + 22), (LEFT + 43 + 44 * x, y))
        p.box(LEFT + 14, y - 34, 382, 34, f"layer {number + 1}")
        if not number:
            for x in range(5):
                p.line((LEFT + 183 + 44 * x, y - 34), (LEFT + 183 + 44 * x, y - 41))
            p.text(RIGHT + 4, y - 56, "new ones", "small", "end")
    for x in range(5):
        p.line((LEFT + 183 + 44 * x, 104), (LEFT + 183 + 44 * x, 82))
    p.text(LEFT + 271, 66, "tokens of the image, or of a text", "small")
    legend(p)


def side(p: Picture) -> None:
    model(p)
    p.dot(224, 135)
    zoom(p, 135, "beside every MLP, or beside all of the model")
    p.text(LEFT + 12, 110, "x", "big")
    p.line((LEFT + 26, 110), (LEFT + 100, 110))
    p.box(LEFT + 102, 78, 150, 64, "MLP, or the model")
    p.line((LEFT + 252, 110), (LEFT + 364, 110))
    p.line((LEFT + 50, 110), (LEFT + 50, 232), (LEFT + 100, 232))
    p.box(LEFT + 102, 208, 150, 48, "side network", "trained")
    p.line((LEFT + 252, 232), (LEFT + 378, 232), (LEFT + 378, 123))
    p.joint(LEFT + 378, 110)
    p.line((LEFT + 390, 110), (LEFT + 428, 110))
    p.text(LEFT + 438, 110, "y", "big")
    p.text(LEFT + 318, 96, "× a", "")
    p.text(LEFT + 318, 218, "× (1 − a)", "")
    p.box(LEFT + 286, 150, 64, 40, "gate a", "trained")
    p.line((LEFT + 318, 150), (LEFT + 318, 116))
    p.line((LEFT + 318, 190), (LEFT + 318, 208), look="plain")
    legend(p)


def restuning(p: Picture) -> None:
    model(p, "layer out", seeing=True)
    zoom(p, 90, "beside the model, from its layers", 129)
    for number in range(3):
        y = 236 - 68 * number
        p.box(LEFT + 40, y, 130, 40, f"layer {number + 1}")
        p.line((LEFT + 105, y), (LEFT + 105, y - 26))
        p.line((LEFT + 105, y - 14), (LEFT + 262, y - 14))
        p.joint(LEFT + 312, y - 14)
        p.box(LEFT + 196, y - 27, 54, 26, f"T_{number + 1}", "trained", 4)
        p.box(LEFT + 342, y - 27, 60, 26, f"V_{number + 1}", "trained", 4)
        p.line((LEFT + 250, y - 14), (LEFT + 299, y - 14))
        p.line((LEFT + 342, y - 14), (LEFT + 325, y - 14))
        if number:
            p.line((LEFT + 312, y + 43), (LEFT + 312, y + 18), (LEFT + 372, y + 18), (LEFT + 372, y + 1))
    p.line((LEFT + 372, 262), (LEFT + 372, 237))
    p.text(LEFT + 372, 272, "root", "small")
    p.line((LEFT + 105, 298), (LEFT + 105, 278))
    p.line((LEFT + 312, 75), (LEFT + 312, 54))
    p.text(LEFT + 322, 58, "to the head", "small", "start")
    legend(p)
    p.text(LEFT + 200, 296, "no gradient goes left", "small")


def scetuning(p: Picture) -> None:
    """A U-Net instead of a transformer."""
    widths = (150, 110, 70)
    for number, w in enumerate(widths):
        y = 62 + 70 * number
        left, right = 44 + 36 * number, 716 - 36 * number
        p.box(left, y, w, 44, f"down {number + 1}")
        p.box(right - w, y, w, 44, f"up {3 - number}")
        tuner = 340
        p.line((left + w, y + 22), (tuner, y + 22))
        p.box(tuner, y + 4, 80, 36, "x + Op(x)", "trained")
        p.line((tuner + 80, y + 22), (right - w, y + 22))
        p.text((left + w + tuner) / 2, y + 10, "skip", "small")
        if number < 2:
            p.line((left + w / 2 + 8, y + 44), (left + w / 2 + 8, y + 70))
            p.line((right - w / 2 - 8, y + 70), (right - w / 2 - 8, y + 45))
    p.box(320, 266, 120, 36, "middle")
    p.line((151, 246), (151, 284), (318, 284))
    p.line((440, 284), (609, 284), (609, 247))
    p.line((119, 40), (119, 61))
    p.text(119, 28, "noisy image", "small")
    p.line((641, 62), (641, 40))
    p.text(641, 28, "noise in it", "small")
    p.text(380, 30, "in every skip connection of a U-Net", "small")
    p.text(30, 328, "Op(x) = W up GELU(W down x); with a condition c: Op(x + c)", "small", "start")
    legend(p)


def llamapro(p: Picture) -> None:
    model(p, "layer out")
    zoom(p, 90, "among the layers", 129)
    x = LEFT + 60
    for number in range(6):
        new = number % 3 == 2
        y = 270 - 42 * number
        p.line((x + 80, y + 40), (x + 80, y + 31))
        p.box(
            x, y, 160, 30, "new block" if new else f"layer {number - number // 3 + 1}", "trained" if new else "frozen"
        )
        if new:
            p.text(x + 176, y + 15, "writes 0 at the start:", "small", "start")
            p.text(x + 176, y + 30, "an identity", "small", "start")
            p.line((x, y + 60), (x - 16, y + 60), (x - 16, y + 15), (x - 3, y + 15), look="line")
            p.text(x - 22, y + 38, "copy", "small", "end")
    p.line((x + 80, 60), (x + 80, 46))
    legend(p)


def longlora(p: Picture) -> None:
    model(p, "q", "k", "v", "o", "embedding")
    zoom(p, 212, "in every attention while training, T = 8, G = 4")
    size = 18
    for half, shift in ((0, 0), (1, 2)):
        x, y = LEFT + 30 + 220 * half, 84
        for row in range(8):
            for column in range(8):
                seen = column <= row and (row + shift) // 4 == (column + shift) // 4
                p.box(x + size * column, y + size * row, size, size, look="other" if seen else "frozen", corner=2)
        p.text(x + 72, y - 14, "half of the heads" if not half else "the others, shifted by G / 2", "small")
    p.text(LEFT + 205, 250, "rows: queries, columns: keys", "small")
    p.text(LEFT + 205, 278, "LoRA in the marked weights; norms and embeddings train in full", "small")
    legend(p, "attended")


def neftune(p: Picture) -> None:
    model(p, "input")
    zoom(p, 246, "behind the embedding, while training", 129)
    p.box(LEFT + 60, 236, 150, 36, "embedding")
    p.line((LEFT + 135, 296), (LEFT + 135, 274))
    p.text(LEFT + 135, 304, "text", "small")
    p.line((LEFT + 135, 236), (LEFT + 135, 187))
    p.joint(LEFT + 135, 174)
    p.line((LEFT + 135, 162), (LEFT + 135, 112))
    p.box(LEFT + 60, 74, 150, 36, "layers")
    p.line((LEFT + 268, 174), (LEFT + 149, 174))
    p.box(LEFT + 270, 152, 140, 44, "noise", "other")
    p.text(LEFT + 340, 214, "even in ± alpha / √(L D)", "small")
    p.text(LEFT + 340, 232, "drawn anew every step", "small")
    legend(p, "drawn")


def part(p: Picture) -> None:
    model(p, "down")
    zoom(p, 144, "in every module that is marked")
    p.text(LEFT + 12, MID, "x", "big")
    p.line((LEFT + 26, MID), (LEFT + 70, MID), look="plain")
    p.line((LEFT + 70, MID), (LEFT + 112, 110), (LEFT + 138, 110), look="plain")
    p.line((LEFT + 70, MID), (LEFT + 112, 246), (LEFT + 138, 246))
    p.box(LEFT + 140, 78, 150, 64, "W")
    p.box(LEFT + 140, 214, 150, 64, "W′, a copy", "trained")
    p.line((LEFT + 290, 110), (LEFT + 322, 110), look="plain")
    p.line((LEFT + 290, 246), (LEFT + 322, 246), (LEFT + 360, MID), (LEFT + 428, MID))
    p.dot(LEFT + 360, MID)
    p.text(LEFT + 334, 110, "off", "small", "start")
    p.text(LEFT + 334, 250, "on", "small", "start")
    p.text(LEFT + 438, MID, "y", "big")
    legend(p)


def reft(p: Picture) -> None:
    model(p, "layer out")
    zoom(p, 90, "after layers, at the ends of the prompt", 129)
    names = ["h₁", "h₂", "h₃", "h₄", "h₅", "h₆", "h₇", "h₈"]
    for number, name in enumerate(names):
        x = LEFT + 14 + 54 * number
        edited = number in (0, 1, 4, 5)
        p.box(x, 240, 44, 32, name, "frozen", 4)
        p.box(x, 84, 44, 32, name + ("′" if edited else ""), "trained" if edited else "frozen", 4)
        if edited:
            p.line((x + 22, 240), (x + 22, 206))
            p.box(x, 156, 44, 48, "edit", "trained", 4)
            p.line((x + 22, 156), (x + 22, 118))
        else:
            p.line((x + 22, 240), (x + 22, 118))
    p.text(LEFT + 174, 288, "prompt", "small")
    p.text(LEFT + 387, 288, "answer", "small")
    p.text(LEFT, 66, "h′ = h + Rᵀ (W h + b − R h), in r dimensions", "", "start")
    legend(p)


def galore(p: Picture) -> None:
    model(p, *WEIGHTS, "embedding", "head")
    zoom(p, 180, "in the step of the optimiser")
    p.box(LEFT + 6, 70, 96, 80, "W", "trained")
    p.text(LEFT + 54, 58, "M × N", "small")
    p.line((LEFT + 54, 150), (LEFT + 54, 198))
    p.text(LEFT + 62, 184, "backward", "small", "start")
    p.box(LEFT + 6, 200, 96, 80, "gradient G", "other")
    p.line((LEFT + 104, 240), (LEFT + 196, 240))
    p.text(LEFT + 150, 226, "Pᵀ G", "")
    p.box(LEFT + 198, 222, 96, 36, "r × N", "other")
    p.line((LEFT + 246, 222), (LEFT + 246, 180))
    p.box(LEFT + 186, 134, 122, 44, "AdamW, r × N", "other")
    p.line((LEFT + 246, 134), (LEFT + 246, 110), (LEFT + 104, 110))
    p.text(LEFT + 176, 96, "− lr · P · step", "")
    p.box(LEFT + 350, 200, 40, 80, "P", "other")
    p.text(LEFT + 370, 290, "M × r", "small")
    p.text(LEFT + 370, 172, "from G's SVD,", "small")
    p.text(LEFT + 370, 188, "every 50 steps", "small")
    legend(p, "of the step")


def lisa(p: Picture) -> None:
    model(p, "embedding", "head", "layer out")
    zoom(p, 90, "two layers train at a time, embeddings and head always", 129)
    drawn = ((1, 4), (0, 3), (3, 5), (2, 4), (0, 2))
    for column, layers in enumerate(drawn):
        for row in range(6):
            p.box(LEFT + 96 + 66 * column, 234 - 34 * row, 58, 28, "", "trained" if row in layers else "frozen", 4)
        p.text(LEFT + 125 + 66 * column, 280, f"{20 * column + 1}–{20 * column + 20}", "small")
    for row in range(6):
        p.text(LEFT + 84, 248 - 34 * row, f"layer {row + 1}", "small", "end")
    p.text(LEFT + 84, 280, "steps", "small", "end")
    legend(p)


def unsloth(p: Picture) -> None:
    model(p, *WEIGHTS)
    zoom(p, 180, "plain LoRA, with kernels of its own")
    p.box(LEFT + 66, 54, 352, 240, look="frame", corner=10)
    low_rank(p, "× alpha / r")
    p.text(LEFT + 76, 158, "one kernel, its backward pass", "small", "start")
    p.text(LEFT + 76, 174, "written by hand", "small", "start")
    legend(p)


PICTURES: dict[str, Drawing] = {
    "lora": linear(lora),
    "rslora": linear(rslora),
    "dora": linear(dora),
    "pissa": linear(relative_start("the largest singular vectors of W")),
    "olora": linear(relative_start("the first columns of W's QR decomposition")),
    "lora_plus": linear(lora_plus),
    "fused": fused,
    "adalora": linear(adalora),
    "ia3": linear(ia3, "k", "v", "down"),
    "boft": linear(rotation("R", "butterfly products of small rotations", "s")),
    "oft": linear(rotation("R", "small rotations along the diagonal")),
    "loha": linear(loha),
    "lokr": linear(lokr),
    "vera": linear(vera, other="random, frozen"),
    "fourierft": linear(fourierft),
    "prefix_tuning": prefix_tuning,
    "prompt_tuning": before_text(encoder=False),
    "p_tuning": before_text(encoder=True),
    "adapter": adapter,
    "prompt": prompt,
    "side": side,
    "restuning": restuning,
    "scetuning": scetuning,
    "llamapro": llamapro,
    "longlora": longlora,
    "neftune": neftune,
    "part": part,
    "reft": reft,
    "galore": galore,
    "lisa": lisa,
    "unsloth": unsloth,
}

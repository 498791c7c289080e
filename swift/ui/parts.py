"""What every page has: its head, the language that it speaks, models to choose from, settings."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.blocks import Block

from swift.ui.answers import Answers, Person, Settings
from swift.ui.words import LANGUAGES, Words

HERE = Path(__file__).parent
HEAD = (HERE / "head.html").read_text(encoding="utf-8")
HEAD_SCRIPT = (HERE / "head.js").read_text(encoding="utf-8")
C = TypeVar("C", bound=Block)
Say = Callable[[Words], dict[str, Any]]
Describe = Callable[[Words], Sequence[str]]
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": False, **PRIVATE}
NEUTRAL = (1.0, 1.0, 0.0, 1.0, 1.0)
"""Temperature, top_p, top_k, the fewest new tokens and a repetition penalty, with which nothing is changed."""


class Parts:
    """Draws into the open Blocks, and remembers what has texts in the page's language.

    Args:
        answers: who answers.
        name: of the model.
        describe: what else identifies what answers, in a language.
        words: the language to begin with.
        files: whether conversations can be saved and opened.
    """

    def __init__(self, answers: Answers, name: str, describe: Describe, words: Words, *, files: bool) -> None:
        self.answers, self.name, self.words = answers, name, words
        self.spoken: list[tuple[Block, Say]] = []
        self.lang = gr.State(words.code)

        def say(words: Words) -> dict[str, Any]:
            texts = {"name": name, "details": " · ".join(describe(words)), "lang": words.code}
            texts |= {"save": words.save, "open": words.open, "dark": words.dark, "gone": words.gone}
            texts["other"] = words.other_language
            return {"value": {key: html.escape(text) for key, text in texts.items()} | {"files": files}}

        self.head = self.speak(
            gr.HTML, say, html_template=HEAD, js_on_load=HEAD_SCRIPT, elem_id="head", apply_default_css=False
        )

    def speak(self, kind: type[C], say: Say, **fixed: Any) -> C:
        """A component that says what `say` makes of the language."""
        component = kind(**say(self.words), **fixed)
        self.spoken.append((component, say))
        return component

    def draw_panel(self, *, with_system: bool) -> None:
        """The side panel: `models`, one or two pickers, none where there is no choice, and `settings`.

        The inputs of `settings` are in the order of `Settings`, without the first where there is no system prompt.
        """
        with gr.Sidebar(position="right", open=True, width=320, elem_id="side"):
            self.speak(gr.HTML, lambda words: {"value": f"<h2>{html.escape(words.settings)}</h2>"})
            self.models = self._draw_models() if len(self.answers.models) > 1 else []
            self.settings = self._draw_settings(with_system)

    def chosen(self, picked: Sequence[str]) -> list[str]:
        """The models that answer, as the pickers say; one or two."""
        names = [name for name in dict.fromkeys(picked) if name in self.answers.models]
        return names or [next(iter(self.answers.models))]

    def connect_language(self, again: Callable[..., list[Any]], inputs: list[Any], outputs: list[Any]) -> None:
        """Let the head's button change the language; `again` gives `outputs` for `inputs` in the new one."""

        def change(lang: str, *values: Any) -> list[Any]:
            words = LANGUAGES["zh" if lang == "en" else "en"]
            said = [gr.update(**say(words)) for _, say in self.spoken]
            return [words.code, *said, *again(words, *values)]

        spoken = [component for component, _ in self.spoken]
        self.head.click(change, [self.lang, *inputs], [self.lang, *spoken, *outputs], **AT_ONCE)

    def _draw_models(self) -> list[Any]:
        names = list(self.answers.models)
        first = self.speak(
            gr.Dropdown, lambda words: {"label": words.model}, choices=names, value=names[0], filterable=False,
            elem_id="model",
        )  # fmt: skip
        beside = self.speak(
            gr.Dropdown,
            lambda words: {"label": words.beside, "choices": [(words.beside_none, ""), *((n, n) for n in names)]},
            value="", filterable=False, elem_id="beside",
        )  # fmt: skip
        return [first, beside]

    def _draw_settings(self, with_system: bool) -> list[Any]:
        now, speak = self.answers.settings(), self.speak
        longest = self.answers.model_length or max(now.max_new_tokens, 8192)
        lowest, highest = min(0.5, now.repetition_penalty), max(2, now.repetition_penalty)
        seed = "" if now.seed is None else str(now.seed)

        def system(words: Words) -> dict[str, Any]:
            return {"label": words.system, "placeholder": words.system_none if now.system else words.system_own}

        prompt = speak(
            gr.Textbox, system, value=now.system, lines=3, max_lines=12, elem_id="system", visible=with_system
        )
        return [
            *([prompt] if with_system else []),
            speak(
                gr.Slider, lambda words: {"label": words.temperature, "info": words.temperature_hint},
                minimum=0, maximum=max(2, now.temperature), value=now.temperature, step=0.05, elem_id="temperature",
            ),
            speak(
                gr.Slider, lambda words: {"label": words.top_p},
                minimum=0, maximum=1, value=now.top_p, step=0.01, elem_id="top_p",
            ),
            speak(
                gr.Slider, lambda words: {"label": words.top_k, "info": words.top_k_hint},
                minimum=0, maximum=max(200, now.top_k), value=now.top_k, step=1, elem_id="top_k",
            ),
            speak(
                gr.Slider, lambda words: {"label": words.new_tokens},
                minimum=1, maximum=longest, value=now.max_new_tokens, step=1, elem_id="max_new_tokens",
            ),
            speak(
                gr.Slider, lambda words: {"label": words.repetition},
                minimum=lowest, maximum=highest, value=now.repetition_penalty, step=0.01, elem_id="repetition_penalty",
            ),
            speak(
                gr.Textbox, lambda words: {"label": words.seed, "placeholder": words.seed_hint},
                value=seed, max_lines=1, elem_id="seed",
            ),
        ]  # fmt: skip


def read_settings(values: Sequence[Any]) -> Settings:
    """What the side panel says; a seed that is no whole number is none, and what is not finite has no effect."""
    system, *numbers, seed = values
    temperature, top_p, top_k, new_tokens, penalty = (
        number if math.isfinite(number) else neutral
        for number, neutral in zip(map(float, numbers), NEUTRAL, strict=True)
    )
    digits = str(seed or "").strip()
    chosen = int(digits[:18]) if digits.isascii() and digits.isdigit() else None
    return Settings(str(system or ""), temperature, top_p, int(top_k), int(new_tokens), penalty, chosen)


def person(request: gr.Request, lang: str) -> Person:
    """Whose page a request comes from: an open tab, not an account."""
    return Person(str(request.session_hash), LANGUAGES[lang])

"""All pages: a head, and a tab for each thing to do."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.events import api

from swift.studio import views
from swift.studio.chat_page import ChatPage
from swift.studio.offers import EVALUATE, EXPORT
from swift.studio.programs import Programs
from swift.studio.runs_page import RunsPage
from swift.studio.studio import Studio
from swift.studio.talks import Talks
from swift.studio.task_page import TaskPage
from swift.studio.train_page import TrainPage
from swift.studio.widgets import PRIVATE
from swift.studio.words import Words

WAITING_PEOPLE = 64
DARK = "() => { const d = document.body.classList.toggle('dark'); localStorage.setItem('studio-dark', d ? '1' : '0') }"
BEGIN = """() => {
  const said = localStorage.getItem('studio-dark');
  if (said !== null) document.body.classList.toggle('dark', said === '1');
  document.documentElement.lang = '%s';
}"""


def build(studio: Studio, talks: Talks, words: Words) -> gr.Blocks:
    """The pages as one application."""
    blocks = gr.Blocks(title=f"{words.studio} · swift", analytics_enabled=False, fill_width=True)
    with blocks:
        with gr.Row(elem_id="head"):
            gr.HTML(
                f"<h1>swift <span>{views.escaped(words.studio)}</span></h1>"
                f"<p>{views.escaped(words.workspace)}: {views.escaped(studio.workspace.root.name)}</p>",
                elem_id="name",
            )
            dark = gr.Button(words.dark, size="sm", elem_id="dark", scale=0)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(words.train, id="train"):
                train = TrainPage(studio, words)
            with gr.Tab(words.runs, id="runs"):
                runs = RunsPage(studio, words)
            with gr.Tab(words.chat, id="chat"):
                chat = ChatPage(studio, talks, words)
            with gr.Tab(words.export, id="export"):
                TaskPage(studio, EXPORT, words, words.export)
            with gr.Tab(words.evaluate, id="evaluate"):
                TaskPage(studio, EVALUATE, words, words.evaluate)
        dark.click(None, js=DARK)
        blocks.load(None, js=BEGIN % words.language)
        blocks.load(runs.refresh, [runs.chosen, runs.several, runs.seen], [*runs.outputs, runs.seen], **PRIVATE)
        blocks.load(train.offer, None, train.offered, **PRIVATE)
        blocks.unload(chat.leave)
        _join(train, runs, chat, tabs)
        for name, function in Programs(studio).functions().items():
            api(function, api_name=name)
    blocks.queue(max_size=WAITING_PEOPLE, default_concurrency_limit=8)
    return blocks


def _join(train: TrainPage, runs: RunsPage, chat: ChatPage, tabs: Any) -> None:
    """What leads from one page to another."""
    studio, words = train.studio, train.words

    def watch(output: str) -> list[Any]:
        if not output:
            return [gr.skip(), gr.skip()]
        listed = [(views.label(run, words), run.path) for run in studio.runs.all()]
        return [gr.update(choices=listed, value=output), gr.Tabs(selected="runs")]

    def use(chosen: str | None) -> list[Any]:
        options, told = runs.options(chosen)
        if options is None:
            return [told, gr.skip(), *(gr.skip() for _ in train.inputs)]
        return [told, gr.Tabs(selected="train"), *train.fill(*options)]

    def talk(chosen: str | None) -> list[Any]:
        place = runs.last_checkpoint(chosen)
        return [gr.update(choices=studio.models(), value=place), gr.Tabs(selected="chat")] if place else [gr.skip()] * 2

    train.output.change(watch, train.output, [runs.chosen, tabs], **PRIVATE)
    runs.use.click(use, runs.chosen, [runs.told, tabs, *train.inputs], **PRIVATE)
    runs.talk.click(talk, runs.chosen, [chat.chosen, tabs], **PRIVATE)

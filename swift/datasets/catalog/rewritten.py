"""Data sets whose rows a function tells anew, because no pattern can."""

from __future__ import annotations

import random
import re
import zlib
from typing import Any

from swift.datasets import DATASETS, DatasetRecord

Row = dict[str, Any]
SPEAKER = re.compile(r"^[ \t]*(User|Assistant)[ \t]*[:：]", re.MULTILINE)
CODE = "```python"
WHO = {"human_answers": "Human", "chatgpt_answers": "ChatGPT"}


def judged(row: Row) -> Row | None:
    """A question with answers of people and of a model; every round asks of one answer whose it is.

    The order of the answers is drawn, from the question alone.
    """
    answers = [(text, who) for column, who in WHO.items() for text in row[column] or () if text and text.strip()]
    if not answers:
        return None
    random.Random(zlib.crc32(row["question"].encode("utf-8", "replace"))).shuffle(answers)
    choice = ", ".join(WHO.values())
    asked = [
        f"Task: Who wrote this answer?\nQuestion: {row['question']}\nAnswer: {text}\nCategory: {choice}\nOutput:"
        for text, _ in answers
    ]
    rounds = [[query, who] for query, (_, who) in zip(asked, answers, strict=True)]
    return {"history": rounds[:-1], "query": rounds[-1][0], "response": rounds[-1][1]}


def asked_about(row: Row) -> Row | None:
    """An answer and the text in which it stands, `answer [SEP] text`; what is learnt is the question."""
    answer, mark, context = row["text1"].partition("[SEP]")
    if not mark or not answer.strip():
        return None
    query = f"Task: Question Generation\nContext: {context.strip()}\nAnswer: {answer.strip()}\nQuestion:"
    return {"query": query, "response": row["text2"]}


def solved(row: Row) -> Row | None:
    """A problem with its code below it, and an explanation of that."""
    problem, mark, code = row["code_with_problem"].partition(CODE)
    if not mark or not problem.strip():
        return None
    return {
        "query": problem.strip().removeprefix("# "),
        "response": f"{mark}{code.rstrip()}\n\n{row['explanation_only']}",
    }


def in_rounds(row: Row) -> Row | None:
    """An instruction that may hold a dialogue, as lines that begin with "User:" and "Assistant:"."""
    text = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    lead, *said = SPEAKER.split(text)
    if not said:
        return {"query": text, "response": row["output"]}
    speakers, texts = said[::2], [part.strip() for part in said[1::2]]
    if speakers != (["User", "Assistant"] * len(speakers))[: len(speakers)] or speakers[-1] != "User":
        return None
    history = [list(pair) for pair in zip(texts[:-1:2], texts[1::2], strict=True)]
    system = {"system": lead.strip()} if lead.strip() else {}
    return {**system, "history": history, "query": texts[-1], "response": row["output"]}


def played(row: Row) -> Row | None:
    """A talk of several: who is neither the user nor the system is played by the model, and says who speaks."""
    messages: list[dict[str, str]] = []
    for turn in row["conversations"]:
        speaker, text = turn["from"], turn["value"]
        role = speaker if speaker in ("system", "user") else "assistant"
        line = text if role != "assistant" or speaker == "assistant" else f"{speaker}: {text}"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n{line}"
        else:
            messages.append({"role": role, "content": line})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return {"messages": messages} if messages else None


CLASSIFIED = ("text-generation", "classification")
DATASETS.add(
    DatasetRecord(
        "hc3-en", "simpleai/HC3", "Hello-SimpleAI/HC3", subsets=("finance", "medicine"), convert=judged,
        tags=(*CLASSIFIED, "en"), help="Whether a person or a model wrote an answer.",
    ),
    DatasetRecord(
        "hc3-zh", "simpleai/HC3-Chinese", "Hello-SimpleAI/HC3-Chinese", convert=judged,
        subsets=("baike", "open_qa", "nlpcc_dbqa", "finance", "medicine", "law", "psychology"),
        tags=(*CLASSIFIED, "zh"), help="Whether a person or a model wrote an answer.",
    ),
    DatasetRecord(
        "dureader-robust-zh", "modelscope/DuReader_robust-QG", split=("train", "validation", "test"),
        convert=asked_about, tags=("text-generation", "zh"), help="Questions to an answer and its text.",
    ),
    DatasetRecord(
        "leetcode-python-en", "AI-ModelScope/leetcode-solutions-python", "mhhmm/leetcode-solutions-python",
        convert=solved, tags=("chat", "coding", "en"),
    ),
    DatasetRecord(
        "guanaco", "AI-ModelScope/GuanacoDataset", "JosephusCheung/GuanacoDataset", subsets=("default",),
        convert=in_rounds, tags=("chat", "multi-round", "zh"),
    ),
    DatasetRecord(
        "ms-agent-multirole", "iic/MSAgent-MultiRole", convert=played,
        tags=("chat", "agent", "multi-round", "role-play"), help="Talks of several, whom the model plays.",
    ),
    DatasetRecord("toolbench", "swift/ToolBench", tags=("chat", "agent", "multi-round")),
)  # fmt: skip

"""Plain text to go on training on: the web, books, code."""

from __future__ import annotations

from typing import Any

from swift.datasets import DATASETS, DatasetRecord

COSMOPEDIA = "auto_math_text khanacademy openstax stanford stories web_samples_v1 web_samples_v2 wikihow"
CONTENT = {"content": "text"}


def titled(row: dict[str, Any]) -> dict[str, Any]:
    """A joke of Ruozhiba: its title, and what was added to it."""
    title, more = row.get("title") or row.get("content"), row.get("abs")
    return {"text": f"{title}，{more}" if more and more != title else title}


def law(row: dict[str, Any]) -> dict[str, Any]:
    """An article of law below its headings."""
    heads = [row.get(name) for name in ("type", "title", "chapter1", "chapter2", "chapter3")]
    return {"text": "\n".join([head for head in heads if head] + [row["content"]])}


DATASETS.add(
    DatasetRecord("c4", hf="allenai/c4", subsets=("en",), tags=("text", "en")),
    DatasetRecord("chinese-c4", "swift/chinese-c4", "shjwudp/chinese-c4", tags=("text", "zh")),
    DatasetRecord(
        "cosmopedia", hf="HuggingFaceTB/cosmopedia", subsets=tuple(COSMOPEDIA.split()), tags=("text", "en"),
    ),
    DatasetRecord("cosmopedia-100k", "swift/cosmopedia-100k", "HuggingFaceTB/cosmopedia-100k", tags=("text", "en")),
    DatasetRecord("dolma", "swift/dolma", "allenai/dolma", subsets=("v1_7",), tags=("text", "en")),
    DatasetRecord("fineweb", hf="HuggingFaceFW/fineweb", tags=("text", "en")),
    DatasetRecord(
        "github-code", "swift/github-code", "codeparrot/github-code", columns={"code": "text"}, tags=("text", "coding"),
    ),
    DatasetRecord("pile", "AI-ModelScope/pile", "EleutherAI/pile", tags=("text", "en")),
    DatasetRecord(
        "redpajama-data-1t", "swift/RedPajama-Data-1T", "togethercomputer/RedPajama-Data-1T", tags=("text", "en"),
    ),
    DatasetRecord(
        "redpajama-data-v2", "swift/RedPajama-Data-V2", "togethercomputer/RedPajama-Data-V2",
        columns={"raw_content": "text"}, tags=("text", "multilingual"),
    ),
    DatasetRecord("refinedweb", hf="tiiuae/falcon-refinedweb", columns=CONTENT, tags=("text", "en")),
    DatasetRecord(
        "ruozhiba", "AI-ModelScope/ruozhiba", subsets=("post-annual", "title-good", "title-norm"),
        convert=titled, tags=("text", "zh"),
    ),
    DatasetRecord("rwkv-pretrain-web", "mapjack/openwebtext_dataset", tags=("text", "zh")),
    DatasetRecord("skypile", "AI-ModelScope/SkyPile-150B", "Skywork/SkyPile-150B", tags=("text", "zh")),
    DatasetRecord("slim-pajama-627b", hf="cerebras/SlimPajama-627B", tags=("text", "en")),
    DatasetRecord(
        "starcoder", "AI-ModelScope/starcoderdata", "bigcode/starcoderdata", columns=CONTENT, tags=("text", "coding"),
    ),
    DatasetRecord(
        "the-stack", "AI-ModelScope/the-stack", "bigcode/the-stack", columns=CONTENT, tags=("text", "coding"),
    ),
    DatasetRecord(
        "tigerbot-law-zh", "AI-ModelScope/tigerbot-law-plugin", "TigerResearch/tigerbot-law-plugin",
        convert=law, tags=("text", "law", "zh"),
    ),
    DatasetRecord("wikipedia", "swift/wikipedia", tags=("text", "multilingual")),
    DatasetRecord(
        "wikipedia-cn-filtered", "AI-ModelScope/wikipedia-cn-20230720-filtered",
        "pleisto/wikipedia-cn-20230720-filtered", columns={"completion": "text"}, tags=("text", "zh"),
    ),
)  # fmt: skip

"""The model card: what the model is, how to use it, what it learnt from, how well, with which options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from swift import hub
from swift.arguments.fields import options_of
from swift.arguments.hub import PushingOptions
from swift.arguments.sft import SftArguments
from swift.publish.outgoing import portable
from swift.publish.told import Told

PICTURE = "images/train_loss.png"
MOST_EVALUATIONS = 10
LONGEST_VALUE = 200
NOT_TOLD = {"output_dir", "logging_dir", "resume_from_checkpoint", "model_id_or_path", "dataset", "val_dataset"}
NOT_TOLD |= {"model_type", "dry_run", "custom_register_path", "report_to", *options_of(PushingOptions)}
OURS_ALONE = ("hqq",)  # what transformers does not load
NOUNS = {
    "adapter": "An adapter",
    "finetune": "A fine-tuned model",
    "merge": "A merge of several adapters",
    "quantized": "A model in few bits",
    "gguf": "A model for llama.cpp and Ollama",
}


def write_card(name: str, told: Told, files: Sequence[str], licence: str | None = None) -> str:
    """The text of a model card.

    Args:
        name: the repository, `owner/name`.
        told: what is known.
        files: what the repository will have.
        licence: what to name; None is the base model's.
    """
    licence = licence or told.licence
    parts = [
        _front(told, licence),
        f"# {name.rpartition('/')[2]}",
        _sentence(told),
        _use(name, told, files),
        _data(told.data),
        _evaluation(told),
        _options(told.options),
        _made(told),
        _licence(told, licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(told: Told, licence: str | None) -> str:
    relation = {"gguf": "quantized"}.get(told.kind, told.kind)
    known = {
        "base_model": told.base if told.base_is_on_a_hub else None,
        "base_model_relation": relation if told.base_is_on_a_hub else None,
        "library_name": _library(told),
        "license": licence,
        "pipeline_tag": "text-generation",
        "datasets": [
            name for entry in told.data.get("datasets", ()) if (name := _hub_dataset(str(entry.get("dataset", ""))))
        ],
        "tags": ["swift", *([str(told.options["sft_type"])] if told.options.get("sft_type") else [])],
    }
    text = yaml.safe_dump({k: v for k, v in known.items() if v}, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _library(told: Told) -> str | None:
    if told.report.get("method") in OURS_ALONE:
        return None
    return {"adapter": "peft", "gguf": "gguf"}.get(told.kind, "transformers")


def _hub_dataset(said: str) -> str | None:
    """The id of a data set that a hub has, None for a file or a registered name."""
    name = said.removeprefix("HF::").removeprefix("MS::").partition("#")[0].partition(":")[0]
    return name if name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "/")) else None


def _sentence(told: Told) -> str:
    trained = told.data.get("train", {})
    of = f" of {_link(told.base)}" if told.base else ""
    if told.kind == "adapter":
        of = f" for {_link(told.base)}" if told.base else ""
    method = told.options.get("sft_type")
    how = f", trained with {method}" if method else ""
    rows = f" on {trained['rows']:,} rows" if trained.get("rows") else ""
    rows += f", {trained['supervised']:,} learnt tokens" if rows and trained.get("supervised") else ""
    return f"{NOUNS[told.kind]}{of}{how}{rows}."


def _link(base: str | None) -> str:
    return f"[{base}](https://huggingface.co/{base})" if base and "/" in base and hub.use_hf() else f"`{base}`"


def _use(name: str, told: Told, files: Sequence[str]) -> str:
    folder, hf = name.rpartition("/")[2], " --use_hf true" if hub.use_hf() else ""
    pull = f"swift pull {name}{hf} --output_dir {folder}"
    if told.kind == "gguf":
        return f"## Use\n\n{_block('bash', [pull, f'ollama create {folder} -f {folder}/Modelfile'])}"
    base = "" if told.kind != "adapter" or told.base_is_on_a_hub else " --model_id_or_path <base model>"
    with_swift = _block("bash", [pull, f"swift infer --ckpt_dir {folder}{base}"])
    if told.report.get("method") in OURS_ALONE:
        return f"## Use\n\n{with_swift}"
    fetch = [] if hub.use_hf() else ["from modelscope import snapshot_download"]
    place = f'"{name}"' if hub.use_hf() else f'snapshot_download("{name}")'
    code = _adapter_code(told, place, files) if told.kind == "adapter" else _model_code(place)
    return f"## Use\n\n{with_swift}\n\n{_block('python', [*fetch, *code])}"


def _model_code(place: str) -> list[str]:
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"place = {place}",
        "model = AutoModelForCausalLM.from_pretrained(place)",
        "tokenizer = AutoTokenizer.from_pretrained(place)",
        *_ask(),
    ]


def _adapter_code(told: Told, place: str, files: Sequence[str]) -> list[str]:
    base = told.base if told.base_is_on_a_hub else "<base model>"
    template = "chat_template.jinja" in files
    read = 'hf_hub_download(place, "chat_template.jinja")' if hub.use_hf() else 'place + "/chat_template.jinja"'
    return [
        *(["from huggingface_hub import hf_hub_download"] if template and hub.use_hf() else []),
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'place, base = {place}, "{base}"',
        "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), place)",
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        *([f'tokenizer.chat_template = open({read}, encoding="utf-8").read()'] if template else []),
        *_ask(),
    ]


def _ask() -> list[str]:
    return [
        'messages = [{"role": "user", "content": "Who are you?"}]',
        'kinds = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}',
        "inputs = tokenizer.apply_chat_template(messages, **kinds)",
        'answer = model.generate(**inputs, max_new_tokens=256)[0][inputs["input_ids"].shape[1] :]',
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    head = ("data set", "rows", "trained on", "validation", "left out", "learnt tokens")
    rows = [
        (
            portable(str(entry.get("dataset", ""))),
            entry.get("rows", ""),
            entry.get("train", {}).get("rows", ""),
            entry.get("validation", {}).get("rows", ""),
            sum(entry.get("dropped", {}).values()),
            entry.get("train", {}).get("supervised", ""),
        )
        for entry in data.get("datasets", ())
    ]
    why = ", ".join(f"{found['rows']:,} {reason}" for reason, found in data.get("dropped", {}).items())
    return f"## Data\n\n{_table(head, rows)}" + (f"\n\nLeft out: {why}." if why else "")


def _evaluation(told: Told) -> str:
    lines = [line for line in told.history if "eval_loss" in line]
    if not lines and told.picture is None:
        return ""
    parts = ["## Evaluation"]
    if lines:
        every = -(-len(lines) // MOST_EVALUATIONS)
        shown = lines[::-1][::every][::-1]
        names = [n for n in ("step", "eval_loss", "eval_acc") if n in lines[-1]]
        words = {"step": "step", "eval_loss": "validation loss", "eval_acc": "token accuracy"}
        parts.append(_table([words[n] for n in names], [[_number(line.get(n)) for n in names] for line in shown]))
    if told.best:
        parts.append(f"Best: {told.best[0]:.4f}, {told.best[1]}.")
    if told.picture:
        parts.append(f"![training loss]({PICTURE})")
    return "\n\n".join(parts)


def _options(options: Mapping[str, Any]) -> str:
    infos = options_of(SftArguments)
    said = [
        (f"`--{name}`", f"`{shown}`")
        for name, value in options.items()
        if name in infos and name not in NOT_TOLD and value not in (None, [], {}) and value != infos[name].default
        if (shown := _shown(value))
    ]
    return f"## Options\n\nThose that are not as they come:\n\n{_table(('option', 'value'), said)}" if said else ""


def _shown(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = portable(" ".join(text.split()))
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _made(told: Told) -> str:
    rows = [(library, version) for library, version in told.versions.items()]
    parts = [_table(("made with", "version"), rows)] if rows else []
    facts = {
        k: told.report[k] for k in ("method", "bits", "type", "perplexity_before", "perplexity") if told.report.get(k)
    }
    if told.kind in ("quantized", "gguf") and facts:
        parts.insert(0, _table(("", ""), [(k.replace("_", " "), _number(v)) for k, v in facts.items()]))
    return "\n\n".join(["## How it was made", *parts]) if parts else ""


def _licence(told: Told, licence: str | None) -> str:
    if licence:
        return f"## Licence\n\n{licence}"
    return f"## Licence\n\nThat of the base model, {_link(told.base)}, applies." if told.base else ""


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        texts = [f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|") for cell in cells]
        return f"| {' | '.join(texts)} |"

    head = list(head)
    return "\n".join([line(head), f"|{'---|' * len(head)}", *map(line, rows)])


def _block(language: str, lines: Iterable[str]) -> str:
    return f"```{language}\n{chr(10).join(lines)}\n```"

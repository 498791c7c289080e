"""`swift template check|show|list`: our template beside the model's own, what it writes, or all that have a name."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.arguments.help import width
from swift.arguments.template import TemplateArguments
from swift.commands.pictures import END as PLAIN
from swift.commands.pictures import GREEN, GREY, row_text, table, wants_colour
from swift.commands.prepare import find_source, load_plugins, quiet_libraries
from swift.datasets.read import read_file
from swift.decide import decide_template, tidy
from swift.errors import DataError, UsageError
from swift.models import MODELS
from swift.models.files import check_tokenizer
from swift.models.load import load_tokenizer
from swift.models.source import ModelSource
from swift.registry import no_hit, unknown
from swift.templates import TEMPLATES
from swift.templates.check import EQUAL, Case, Finding, cases, check
from swift.templates.encoding import Template
from swift.templates.jinja import read_source
from swift.templates.kin import rows_like
from swift.templates.template import get_template

RED, YELLOW = "\x1b[1;31m", "\x1b[33m"
BEFORE, AFTER = 3, 9


@dataclass
class Report:
    """What a check found.

    Attributes:
        model: the directory of the tokenizer.
        template: the name of ours.
        end: what ends a turn, its ids, whether they are supervised, and who else stops there.
        findings: one per conversation.
    """

    model: str
    template: str
    end: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.end["supervised"] and all(finding.good for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        findings = [{"good": finding.good, **vars(finding)} for finding in self.findings]
        return {
            "good": self.good,
            "model": self.model,
            "template": self.template,
            "end": self.end,
            "conversations": findings,
        }


def template_main(said: TemplateArguments) -> dict[str, Any]:
    """Do what `said.action` says, print it, and return it.

    Raises:
        DataError: a check found a difference that nobody wants, or a mask that is wrong.
    """
    args = tidy(said)
    load_plugins(args.custom_register_path)
    if args.action == "list":
        return _list(args)
    quiet_libraries()
    source, name = find_target(args)
    tokenizer = load_tokenizer(source)
    if args.chat_template:
        tokenizer.chat_template = read_source(args.chat_template)
    template = get_template(name, tokenizer, args.system)
    more = read_cases(args.conversations)
    if args.action == "show":
        return _show(args, template, more)
    if not tokenizer.chat_template:
        what = f"{source.path} has no chat template to compare {template.name!r} with"
        raise DataError("DATA-06", what, fix="--chat_template file.jinja")
    report = Report(str(source.path), template.name, describe_end(template, source.path), check(template, more))
    _say(json.dumps(report.to_json(), ensure_ascii=False) if args.json else "\n".join(lines_of(report, tokenizer)))
    if not report.good:
        raise _error(report, rows_like(tokenizer))
    return report.to_json()


def _error(report: Report, like: Sequence[str]) -> DataError:
    """What is wrong, in one sentence, and what to type; the rows `like` write the same prompt."""
    bad = [finding for finding in report.findings if not finding.good]
    names = ", ".join(finding.case for finding in bad) or "the end of a turn"
    fixes = [finding.fix for finding in bad if finding.fix]
    if report.template != "auto":
        others = " or ".join(name for name in like[:3] if name != report.template)
        what, fix = f"template {report.template!r} is not the model's own: {names}", "--template_type auto is its own"
        fix += f"; {others} has the same prompt" if others else ""
    else:
        what, fix = f"the model's own template cannot be trained as it is: {names}", "choose a --template_type"
    return DataError("TEMPLATE-01", what, fix=fixes[0] if fixes else fix)


def find_target(args: TemplateArguments) -> tuple[ModelSource, str]:
    """The model whose tokenizer is asked, and the template's name.

    Raises:
        UsageError: neither is said, or the word is neither a model nor a template.
    """
    word = args.target
    if word and Path(word).expanduser().is_dir():
        args = replace(args, model_id_or_path=word)
    elif word in TEMPLATES or word == "auto":
        args = replace(args, template_type=word)
    elif word in MODELS:
        args = replace(args, model_type=word)
    elif word and "/" in word:
        args = replace(args, model_id_or_path=word)
    elif word:
        raise unknown("model or template", word, (*MODELS, *TEMPLATES, "auto"))
    if not args.model_id_or_path and not args.model_type:
        fix = f"swift template {args.action} {word or '<template>'} --model_id_or_path <model>"
        raise UsageError("USAGE-03", "no model is said, whose tokenizer is needed", fix=fix)
    source = _find(args)
    said = "auto" if args.chat_template and args.template_type == "AUTO" else args.template_type  # as training does
    return source, decide_template(said, source)


def _find(args: TemplateArguments) -> ModelSource:
    """The model; of a directory only the tokenizer has to be there."""
    path = Path(args.model_id_or_path or "").expanduser()
    if not args.model_id_or_path or not path.is_dir() or (path / "config.json").is_file():
        return find_source(args)
    check_tokenizer(path.resolve())
    return ModelSource(path.resolve().name, MODELS[args.model_type] if args.model_type else None, path.resolve(), {})


def read_cases(path: str | None) -> list[Case]:
    """The conversations of a file, named by their lines."""
    if path is None:
        return []
    found = []
    for where, row in read_file(Path(path).expanduser()):
        if isinstance(row, DataError):
            raise row
        found.append(Case(where, row))
    return found


def describe_end(template: Template, directory: Path) -> dict[str, Any]:
    """What ends a turn, and whether it is learnt and known."""
    probe = template.encode({"query": "Where?", "response": "Here."})[0]["labels"]
    config = _json(directory / "generation_config.json").get("eos_token_id")
    stops = config if isinstance(config, list) else [] if config is None else [config]
    return {
        "text": template.end_text,
        "ids": template.end_ids,
        "also": list(template.ends[1:]),
        "supervised": probe[-len(template.end_ids) :] == template.end_ids or template.end_ids[-1] in probe,
        "inference_stops": template.stop_ids,
        "in_generation_config": template.end_ids[-1] in stops if stops else None,
        "is_tokenizer_eos": template.end_ids[-1] == template.tokenizer.eos_token_id,
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lines_of(report: Report, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """A report in lines for people."""
    yield f"template {report.template!r} and the chat template of {report.model}"
    yield f"end of turn: {report.end['text']!r} (ids {', '.join(map(str, report.end['ids']))}); " + _end_words(report)
    yield ""
    for finding in report.findings:
        yield from _finding(finding, tokenizer)
    count = {status: sum(f.status == status for f in report.findings) for status in dict.fromkeys(_statuses(report))}
    yield ""
    yield ", ".join(f"{number} {status}" for status, number in count.items()) + (
        "" if report.good else "; not the model's own"
    )


def _statuses(report: Report) -> list[str]:
    return [finding.status for finding in report.findings]


def _end_words(report: Report) -> str:
    end = report.end
    words = ["supervised" if end["supervised"] else "NOT SUPERVISED"]
    known = {True: "in generation_config.json", False: "not in generation_config.json: our checkpoints add it"}
    words += [known[end["in_generation_config"]]] if end["in_generation_config"] is not None else []
    words += [f"calls of tools end with {', '.join(map(repr, end['also']))}"] if end["also"] else []
    return ", ".join(words)


def _finding(finding: Finding, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    colour = GREEN if finding.good and finding.status == EQUAL else YELLOW if finding.good else RED
    status = finding.status if finding.good or finding.status != EQUAL else "wrong"
    tokens = f"{len(finding.ours):,} tokens" if finding.ours else ""
    yield f"  {_painted(f'{status:<10}', colour)}{finding.case:<26}{tokens}".rstrip()
    if finding.why:
        yield f"{'':12}{_painted(finding.why, GREY)}"
    for fault in finding.faults:
        yield f"{'':12}{_painted(fault, RED)}"
    if finding.first is not None and not finding.good:
        yield from side_by_side(finding, tokenizer)
    if not finding.good:
        for text in finding.supervised:
            yield f"{'':12}supervised: {_painted(repr(text), GREEN)}"


def side_by_side(finding: Finding, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The ids around the first difference, ours at the left and the tokenizer's own at the right."""
    assert finding.first is not None
    start, stop = max(0, finding.first - BEFORE), finding.first + AFTER
    rows: list[tuple[str, ...]] = [("token", "ours", "theirs")]
    for k in range(start, min(stop, max(len(finding.ours), len(finding.theirs)))):
        cells = [_token(ids[k], tokenizer) if k < len(ids) else "" for ids in (finding.ours, finding.theirs)]
        rows.append((f"{'>' if cells[0] != cells[1] else ' '} {k}", *cells))
    column = min(max(_wide(row[1]) for row in rows), (width() - 24) // 2)
    for number, ours, theirs in rows:
        line = f"{'':12}{number:<8}{_padded(ours, column)}  {theirs}"
        yield _painted(line, RED) if number.startswith(">") else line


def _token(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    return f"{token} {str(tokenizer.decode([token]))!r}"


def _wide(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _wide(text))


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{PLAIN}" if wants_colour() else text


def _show(args: TemplateArguments, template: Template, more: Sequence[Case]) -> dict[str, Any]:
    """How conversations are written, with what is learnt of them."""
    shown: dict[str, Any] = {"template": template.name, "end": template.end_text, "conversations": []}
    for case in more or list(cases(template.tokenizer)):
        try:
            inputs, _ = template.encode(case.row)
        except DataError as error:
            shown["conversations"].append({"case": case.name, "refused": error.what})
            continue
        shown["conversations"].append({"case": case.name, **inputs})
    if args.json:
        _say(json.dumps(shown, ensure_ascii=False))
        return shown
    _say(template.describe_end())
    for found in shown["conversations"]:
        _say(f"\n{found['case']}")
        if "refused" in found:
            _say(f"  refused: {found['refused']}")
            continue
        inputs = {**found, "labels": found["labels"] or [-100] * len(found["input_ids"])}
        _say(row_text(inputs, template.tokenizer, wants_colour()))
    return shown


def _list(args: TemplateArguments) -> dict[str, Any]:
    """The templates with a name; with a word, those that have it in theirs."""
    word = (args.target or "").lower()
    rows = [row for row in TEMPLATES.values() if word in row.name]
    found = [
        {"name": row.name, "checked": row.checked, "tools": row.tool_format, "thinking": row.thinking is not None}
        for row in rows
    ]
    if not found:
        raise no_hit("template", [word], [row.name for row in TEMPLATES.values()])
    if args.json:
        _say(json.dumps({"templates": found}))
    else:
        head = ("name", "compared with", "tools")
        _say("\n".join(table([head, *((row["name"], row["checked"], row["tools"] or "no") for row in found)])))
    return {"templates": found}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

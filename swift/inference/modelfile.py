"""Ollama's Modelfile, which writes conversations as a template of ours does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from swift import storage
from swift.errors import ConfigError
from swift.log import get_logger
from swift.templates.jinja import Pieces
from swift.templates.template import RecordTemplate, Template

logger = get_logger()


def write_modelfile(file: Path, weights: str, template: Template) -> None:
    """Write a Modelfile for the weights of that name.

    A tokenizer's own chat template stays in the weights, where Ollama finds it if it knows it.
    """
    lines = [f"FROM ./{weights}"]
    if isinstance(template, RecordTemplate):
        system = template.pieces.default_system
        lines.append(f'TEMPLATE """{conversation(template)}"""')
        lines += [f'SYSTEM """{system}"""'] if system else []
    else:
        logger.warning("the Modelfile has no TEMPLATE: the model's own chat template is no row of ours")
    stops = dict.fromkeys(word for word in (template.end_text.strip(), *template.stop_words) if word)
    lines += [f'PARAMETER stop "{_quoted(word)}"' for word in stops]
    storage.write_text(file, "\n".join(lines) + "\n")


def starts_alone(template: Template) -> bool:
    """Whether engines are to write the token at the start of a text, which training had, before what is told here."""
    tokenizer = template.tokenizer
    ids = template.encode({"query": "a"})[0].get("input_ids", [])
    if tokenizer.bos_token_id is None or ids[:1] != [tokenizer.bos_token_id]:
        return False
    if not isinstance(template, RecordTemplate) or template.pieces.bos:
        return True
    return all(text.startswith(_start(template)) for text in (template.pieces.prefix, template.pieces.system_prefix))


def _start(template: Template) -> str:
    return str(template.tokenizer.bos_token)


def _without_start(template: RecordTemplate) -> Pieces:
    """What a row writes after the token that engines write themselves."""
    pieces = template.pieces
    if not starts_alone(template):
        return pieces
    texts = {"prefix": pieces.prefix, "system_prefix": pieces.system_prefix}
    return replace(pieces, bos="", **{name: text.removeprefix(_start(template)) for name, text in texts.items()})


def conversation(template: RecordTemplate) -> str:
    """What a registry row writes, in the language of Ollama's templates: Go's.

    Raises:
        ConfigError: the row counts its rounds, which that language cannot.
    """
    pieces, thinking = _without_start(template), template.record.thinking
    lead = pieces.lead + (thinking.earlier if thinking else "")
    texts = (pieces.bos, pieces.prefix, pieces.system_prefix, pieces.prompt, pieces.separator, pieces.suffix)
    if any("{{ROUND" in text for text in texts):
        raise ConfigError("CONFIG-02", "Ollama cannot number rounds, as this template does", fix="another template")

    def placed(text: str) -> str:
        return text.replace("{{SYSTEM}}", "{{ $.System }}").replace("{{QUERY}}", "{{ .Content }}")

    start = f"{{{{ if .System }}}}{placed(pieces.system_prefix)}{{{{ else }}}}{placed(pieces.prefix)}{{{{ end }}}}"
    last = "(eq (len (slice $.Messages $i)) 1)"
    asked = placed(pieces.prompt)
    if pieces.last_prompt != pieces.prompt:  # where the system text stands in the last round
        asked = f"{{{{ if and $.System {last} }}}}{placed(pieces.last_prompt)}{{{{ else }}}}{asked}{{{{ end }}}}"
    if thinking and thinking.opened:
        asked += f"{{{{ if {last} }}}}{thinking.opened}{{{{ end }}}}"
    answered = f"{lead}{{{{ .Content }}}}{{{{ if {last} }}}}{{{{ else }}}}{placed(pieces.separator)}{{{{ end }}}}"
    rounds = f'{{{{ if eq .Role "user" }}}}{asked}{{{{ else if eq .Role "assistant" }}}}{answered}{{{{ end }}}}'
    return f"{pieces.bos}{start}{{{{ range $i, $_ := .Messages }}}}{rounds}{{{{ end }}}}"


def _quoted(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

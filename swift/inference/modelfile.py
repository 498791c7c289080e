"""Ollama's Modelfile, which writes conversations as a template of ours does."""

from __future__ import annotations

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
        pieces = template.pieces
        lines.append(f'TEMPLATE """{conversation(pieces)}"""')
        lines += [f'SYSTEM """{pieces.default_system}"""'] if pieces.default_system else []
    else:
        logger.warning("the Modelfile has no TEMPLATE: the model's own chat template is no row of ours")
    stops = dict.fromkeys(word for word in (template.end_text.strip(), *template.stop_words) if word)
    lines += [f'PARAMETER stop "{_quoted(word)}"' for word in stops]
    storage.write_text(file, "\n".join(lines) + "\n")


def conversation(pieces: Pieces) -> str:
    """What a registry row writes, in the language of Ollama's templates.

    Raises:
        ConfigError: the row counts its rounds, which that language cannot.
    """
    texts = (pieces.bos, pieces.prefix, pieces.system_prefix, pieces.prompt, pieces.separator, pieces.suffix)
    if any("{{ROUND" in text for text in texts):
        raise ConfigError("CONFIG-02", "Ollama cannot number rounds, as this template does", fix="another template")

    def placed(text: str) -> str:
        return text.replace("{{SYSTEM}}", "{{ $.System }}").replace("{{QUERY}}", "{{ .Content }}")

    start = f"{{{{ if .System }}}}{placed(pieces.system_prefix)}{{{{ else }}}}{placed(pieces.prefix)}{{{{ end }}}}"
    last = "{{ if eq (len (slice $.Messages $i)) 1 }}"
    asked = placed(pieces.prompt)
    if pieces.last_prompt != pieces.prompt:  # where the system text stands in the last round
        asked = f"{{{{ if and $.System {last[6:-3]} }}}}{placed(pieces.last_prompt)}{{{{ else }}}}{asked}{{{{ end }}}}"
    answered = f"{{{{ .Content }}}}{last}{{{{ else }}}}{placed(pieces.separator)}{{{{ end }}}}"
    rounds = (
        f'{{{{ if eq .Role "user" }}}}{asked}{pieces.lead}{{{{ else if eq .Role "assistant" }}}}{answered}{{{{ end }}}}'
    )
    return f"{pieces.bos}{start}{{{{ range $i, $_ := .Messages }}}}{rounds}{{{{ end }}}}"


def _quoted(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

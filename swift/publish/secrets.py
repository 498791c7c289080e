"""Secrets and paths of this machine in files that are about to leave it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swift.errors import RefusedError, UsageError
from swift.redact import SECRET_KEY, SECRET_VALUE, URL_USER, known_secrets

HOME = re.compile(r"(?<![\w/.:-])(?:/home/[^/\s\"'\0]+/|/Users/[^/\s\"'\0]+/|/root/|[A-Za-z]:\\{1,2}Users\\)", re.I)
KEY_OF_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
KEY_AND_VALUE = re.compile(r"""\b([A-Za-z][\w-]*)["']?\s*[:=]\s*["']?(?=([\w\-+/.]{8,}={0,2})(?![\w(\[]))""")
# Words of a vocabulary may look like paths.
VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"}
ENVIRONMENT = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$")
SHORTEST, HEAD_BYTES, SHOWN = 8, 1 << 18, 8


@dataclass(frozen=True)
class Finding:
    """Something that should not leave: in which file and line, and what it is; of secrets only the kind is said."""

    file: str
    line: int
    what: str

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


def check(files: Iterable[tuple[str, Path]], allowed: Iterable[str] = (), others: Iterable[str] = ()) -> list[Finding]:
    """Refuse to let files leave that hold secrets or paths of this machine; return what was allowed to.

    Args:
        files: names and where they lie.
        allowed: files, or `file:line`, that may hold some.
        others: files that another push of the same directory sends, which may be allowed too.

    Raises:
        RefusedError: with each file and line.
        UsageError: what was allowed is neither among the files nor the others.
    """
    files, allowed = list(files), set(allowed)
    names = {name for name, _ in files}
    known = names.union(others)
    strange = sorted(said for said in allowed if said not in known and said.rpartition(":")[0] not in known)
    if strange:
        fix = f"of the files that leave: {', '.join(sorted(names))}"
        raise UsageError("USAGE-02", f"--allow_leak {strange[0]} names no file that leaves", fix=fix)
    found = [finding for name, path in files for finding in scan(name, path)]
    refused = [finding for finding in found if not {finding.file, finding.place} & allowed]
    if refused:
        shown = "; ".join(f"{finding.place} {finding.what}" for finding in refused[:SHOWN])
        more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise RefusedError(
            "HUB-04",
            f"nothing was sent: {shown}{more}",
            why="whoever can read the repository could read it",
            fix=f"take it out, and replace a token that was written down; or --allow_leak {refused[0].place}",
        )
    return found


def scan(name: str, path: Path) -> Iterator[Finding]:
    """What of one file should not leave; of a binary one only its head is looked at."""
    own = _own_secrets()
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if b"\0" in head:
            yield from _in_line(name, 1, _text_of(name, head), own, paths=name.endswith(".safetensors"))
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            text = line.decode("utf-8", "replace")
            yield from _in_line(name, number, text, own, paths=Path(name).name not in VOCABULARIES)


def _in_line(name: str, number: int, line: str, own: frozenset[str], *, paths: bool) -> Iterator[Finding]:
    if any(secret in line for secret in own):
        yield Finding(name, number, "holds a secret of this process's environment")
    elif any(re.search(r"\d", match[0]) for match in SECRET_VALUE.finditer(line)):
        yield Finding(name, number, "holds a token")
    elif KEY_OF_PEM.search(line):
        yield Finding(name, number, "holds a private key")
    elif URL_USER.search(line):
        yield Finding(name, number, "holds a password in a URL")
    elif key := _named_secret(line):
        yield Finding(name, number, f"holds the value of {key!r}")
    if paths and (match := HOME.search(line)):
        yield Finding(name, number, f"holds a path of this machine, {match[0]}…")


def _named_secret(line: str) -> str | None:
    """The key of a line `api_key: value`, where it is one for a secret and the value could be one."""
    for key, value in KEY_AND_VALUE.findall(line):
        if SECRET_KEY.search(key.replace("-", "_")) and re.search(r"\d", value):
            return key
    return None


def _own_secrets() -> frozenset[str]:
    named = {value for name, value in os.environ.items() if ENVIRONMENT.search(name) and len(value) >= SHORTEST}
    return known_secrets() | named


def _text_of(name: str, head: bytes) -> str:
    """What a binary file says in words: of safetensors its metadata, of others all that can be read."""
    if not name.endswith(".safetensors"):
        return head.decode("latin-1")
    length = int.from_bytes(head[:8], "little")
    try:
        return json.dumps(json.loads(head[8 : 8 + length]).get("__metadata__", {}), ensure_ascii=False)
    except ValueError:  # a header longer than was read, or none
        return head[8:].decode("latin-1")

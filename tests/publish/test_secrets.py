"""Twelve kinds of secrets are found, in the line where they stand; what only looks like one is not."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from swift import redact
from swift.errors import RefusedError, UsageError
from swift.publish import secrets
from swift.publish.outgoing import portable

LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
SECRETS = {
    "hugging face": f"hf_{LETTERS}",
    "modelscope": "ms-12345678-90ab-cdef-1234",
    "openai": f"sk-{LETTERS}",
    "aws": "AKIA1234567890ABCDEF",
    "github": f"ghp_{LETTERS}",
    "gitlab": f"glpat-{LETTERS}",
    "slack": f"xoxb-{LETTERS}",
    "google": f"AIza{LETTERS}12345678",
    "url": "https://ann:pa55word@host/data.jsonl",
    "pem": "-----BEGIN RSA PRIVATE KEY-----",
    "named": '"api_key": "correct-horse-7"',
    "environment": "HF_TOKEN=0123456789abcdef",
    "home": "/home/ann/data/train.jsonl",
    "mac": "/Users/ann/models/base",
    "root": "/root/x/y",
    "windows": "C:\\\\Users\\\\ann",
}
HARMLESS = [
    '"hub_token": "***"',
    '"hub_token": null',
    '"pad_token": "<pad_token_0123456789>"',
    "max_new_tokens: 12345678",
    "see https://example.com/home/ann/x",
    "sk-" + "-" * 40,
    "the /home page",
    'api_key = os.environ["SWIFT_API_KEY"]',
    '"eos_token": "<|im_end|>"',
    "A/B/C, and/or",
]


@pytest.mark.parametrize("kind", SECRETS)
def test_it_is_found_in_its_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text(f"one\ntwo\nx = {SECRETS[kind]} \nfour\n")
    found = list(secrets.scan("notes.json", path))
    assert [finding.place for finding in found] == ["notes.json:3"]
    assert LETTERS not in found[0].what
    assert "pa55word" not in found[0].what


@pytest.mark.parametrize("line", HARMLESS)
def test_it_is_not_taken_for_one(line: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text(line)
    assert list(secrets.scan("notes.md", path)) == []


def test_own_secrets_are_known_by_their_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("it is swordfish-and-chips\nand open-sesame-twice\n")
    assert list(secrets.scan("notes.txt", path)) == []
    monkeypatch.setattr(redact, "_KNOWN", set())
    redact.hide("swordfish-and-chips")
    monkeypatch.setenv("MY_PASSWORD", "open-sesame-twice")
    assert [finding.line for finding in secrets.scan("notes.txt", path)] == [1, 2]


def test_binary_files_are_looked_at_where_they_have_words(tmp_path: Path) -> None:
    head = json.dumps({"__metadata__": {"made_in": "/home/ann/x/"}, "w": {}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 64)
    assert [finding.what for finding in secrets.scan(path.name, path)] == ["holds a path of this machine, /home/ann/…"]
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF\0\0" + SECRETS["hugging face"].encode() + b"\0/home/ann/\0")
    assert [finding.what for finding in secrets.scan(gguf.name, gguf)] == ["holds a token"]


def test_words_of_a_vocabulary_are_no_paths(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"vocab": {"/home/ann/": 1}}')
    assert list(secrets.scan("tokenizer.json", path)) == []
    assert len(list(secrets.scan("other.json", path))) == 1


def test_only_what_was_named_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("/home/ann/x\nfine\n/home/ann/y\n")
    with pytest.raises(RefusedError, match=r"a\.md:3 holds") as caught:
        secrets.check([("a.md", path)], ["a.md:1"])
    assert "a.md:1" not in str(caught.value)
    assert len(secrets.check([("a.md", path)], ["a.md"])) == 2
    with pytest.raises(UsageError, match=r"--allow_leak b\.md names no file"):
        secrets.check([("a.md", path)], ["b.md"])
    assert len(secrets.check([("a.md", path)], ["a.md", "b.md:3"], ["b.md"])) == 2, (
        "of another push with the same words"
    )


def test_paths_lose_what_is_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "my models").mkdir()
    assert portable(f"{tmp_path}/base") == "base"
    assert portable(f"{tmp_path}/my models/base") == "base"
    assert portable(f"{tmp_path}/rows.jsonl#500") == "rows.jsonl#500"
    assert portable(f"name={tmp_path}/rows") == "name=rows"
    assert portable("/home/nobody-here/gone/rows.jsonl#5") == "rows.jsonl#5"
    cache = "/x/models--Qwen--Qwen2.5-0.5B/snapshots/abc"
    assert portable(cache) == "Qwen/Qwen2.5-0.5B"
    assert portable("/x/modelscope/hub/models/Qwen/Qwen2___5-0___5B") == "Qwen/Qwen2.5-0.5B"
    for text in ("/no_think", "Qwen/Qwen2", "a and/or b", "/none/such/place", "", "/"):
        assert portable(text) == text

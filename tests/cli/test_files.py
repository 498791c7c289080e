"""Configuration files: what is read, and that everything else is refused quickly and in a line."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from swift.arguments.files import LARGEST_BYTES, Plain, parse_json, read_config, resolve
from swift.errors import ConfigError, NotFoundError


def write(tmp_path: Path, data: str | bytes, name: str = "run.yaml") -> str:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join('*' + chr(97 + i) for _ in range(9))}]\n" for i in range(9)
)
HOSTILE = {
    "alias bomb": ("run.yaml", BOMB, "aliases"),
    "merge key": ("run.yaml", "a: &a {b: 1}\nc:\n  <<: *a\n", "aliases"),
    "python object": ("run.yaml", "lora_rank: !!python/object/apply:os.getcwd []\n", "tags"),
    "python name": ("run.yaml", "lora_rank: !!python/name:os.system\n", "tags"),
    "own tag": ("run.yaml", "lora_rank: !thing 8\n", "tags"),
    "duplicate key": ("run.yaml", "lora_rank: 8\nseed: 1\nlora_rank: 9\n", "said twice"),
    "tab": ("run.yaml", "lora_rank: 8\n\tseed: 1\n", "tab character"),
    "deep flow": ("run.yaml", "a: " + "[" * 100_000, "nested"),
    "deep block": ("run.yaml", "- " * 100_000, "nested"),
    "deep mapping": ("run.yaml", "a: " + "{a: " * 50_000, "nested"),
    "large": ("run.yaml", "a: " + "x" * 50_000_000, "larger than"),
    "latin 1": ("run.yaml", b"seed: 1\nsystem: caf\xe9\n", "not UTF-8"),
    "utf 16": ("run.yaml", "seed: 1\n".encode("utf-16"), "not UTF-8"),
    "control": ("run.yaml", "seed: \x00\n", "cannot be read"),
    "two documents": ("run.yaml", "seed: 1\n---\nseed: 2\n", "several documents"),
    "a list": ("run.yaml", "- seed\n", "no `name: value` pairs"),
    "empty": ("run.yaml", "", "no `name: value` pairs"),
    "list as a key": ("run.yaml", "[a]: 1\n", "not names"),
    "json nan": ("run.json", '{"learning_rate": NaN}', "NaN"),
    "json infinity": ("run.json", '{"learning_rate": -Infinity}', "Infinity"),
    "json deep": ("run.json", "[" * 200_000, "nested"),
    "json duplicate": ("run.json", '{"seed": 1, "seed": 2}', "said twice"),
    "json broken": ("run.json", '{"seed": 1,\n "lora_rank" 8}', "run.json:2"),
    "json text": ("run.json", '"seed"', "no `name: value` pairs"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_a_line_and_at_once(tmp_path: Path, case: str) -> None:
    name, data, says = HOSTILE[case]
    path = write(tmp_path, data, name)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert time.monotonic() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert caught.value.exit_code == 78
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_long_list_that_is_small_enough_is_read_in_time(tmp_path: Path) -> None:
    text = "dataset:\n" + "- a\n" * ((LARGEST_BYTES - 20) // 4)
    start = time.monotonic()
    (entry,) = read_config(write(tmp_path, text))
    assert len(entry.value) == (LARGEST_BYTES - 20) // 4
    assert time.monotonic() - start < 2


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"gone\.yaml does not exist"):
        read_config(str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(str(tmp_path))


def test_scalars_stay_as_written_and_lines_are_known(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeff# run\nlearning_rate: 1e-4\nsystem: no\n\nname: 'true'\nlist: [2.10, \"3\"]\nnone:\n")
    entries = {entry.name: entry for entry in read_config(path)}
    assert entries["learning_rate"].value == "1e-4"
    assert entries["system"].value == "no"
    assert isinstance(entries["system"].value, Plain)
    assert not isinstance(entries["name"].value, Plain)
    assert entries["list"].value == ["2.10", "3"]
    assert entries["none"].value == ""
    assert entries["learning_rate"].where == f"{path}:2"
    assert entries["name"].where == f"{path}:5"


def test_json_has_lines_too(tmp_path: Path) -> None:
    path = write(tmp_path, '{\n  "a": {"b": 1.50},\n  "ü": [true, null, "x"]\n}', "run.json")
    first, second = read_config(path)
    assert (first.name, first.value, first.where) == ("a", {"b": "1.50"}, f"{path}:2")
    assert (second.value, second.where) == ([True, None, "x"], f"{path}:3")


def test_resolve_reads_what_was_not_quoted() -> None:
    tree = {"a": Plain("1e-4"), "b": Plain("true"), "c": "1", "d": [Plain("~"), Plain("x"), Plain("NaN")], "e": True}
    assert resolve(tree) == {"a": 1e-4, "b": True, "c": "1", "d": [None, "x", "NaN"], "e": True}


def test_parse_json_refuses_what_json_is_not() -> None:
    for text in ("{", '{"a": 1, "a": 2}', "NaN", "[" * 200_000):
        with pytest.raises(ValueError):  # noqa: PT011  whatever is wrong, it is one of these
            parse_json(text)

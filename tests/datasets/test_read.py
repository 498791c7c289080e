from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.datasets.read import READERS, Row, read_file
from swift.datasets.rows import COMPRESSED, COMPRESSIBLE
from swift.errors import DataError, MissingPackageError, NotFoundError


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def good(path: Path) -> list[tuple[str, Row]]:
    rows = [(where.removeprefix(f"{path}:"), row) for where, row in read_file(path)]
    assert not [row for _, row in rows if isinstance(row, DataError)]
    return rows  # type: ignore[return-value]


def problems(path: Path) -> list[str]:
    return [row.what.removeprefix(f"{path}:") for _, row in read_file(path) if isinstance(row, DataError)]


def test_jsonl_counts_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "x\\u0085\xe2\x80\xa8y"}')
    assert good(path) == [("1", {"a": 1}), ("4", {"a": "x\x85\u2028y"})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": "b', "cut off"),
        (b'{"a": 1', "cut off"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": "x\x00y"}', "control character (U+0000)"),
        (b'{"a": "x\ry"}', "control character (U+000D)"),
        (b'{"a": "\\ud83d"}', '"a" holds half of a surrogate pair'),
        (b'{"a": {"b": [1, {"c": "\\uDE00x"}]}}', '"a.b[1].c" holds half'),
        (b'{"\\ud83d": 1}', '"(a key)" holds half'),
        (b'{"a": {"\\ud83d": 1}}', '"a.(a key)" holds half'),
        (b'{"a": 1,}', "column 9"),
        (b'{"a": 1} {"a": 2}', "column 10: Extra data"),
        (b'{"a": 1}\r{"a": 2}', "Extra data"),
        (b"[1, 2]", "is a list, not an object"),
        (b"3", "is a number, not an object"),
        (b'"text"', "is a string, not an object"),
        (b"null", "is null, not an object"),
        (b'{"a": 1, "a": 2}', 'the key "a" is there twice'),
        (b'{"a": "\xff"}', "byte 8 is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", b'{"a": "\xf0\x9f\x98\x80"}\n' + line + b'\n{"a": "\\ud83d\\ude00"}\n')
    entries = list(read_file(path))
    assert [where.rpartition(":")[2] for where, _ in entries] == ["1", "2", "3"]
    assert entries[0][1] == entries[2][1] == {"a": "😀"}
    error = entries[1][1]
    assert isinstance(error, DataError)
    assert error.code == "DATA-02"
    assert error.what.startswith(f"{path}:2: ")
    assert reason in error.what


def test_a_list_named_jsonl_is_told_its_name(tmp_path: Path) -> None:
    (first, *_) = [row for _, row in read_file(write(tmp_path / "a.jsonl", '[\n {"a": 1}\n]'))]
    assert isinstance(first, DataError)
    assert ".json" in (first.fix or "")


def test_json_list_knows_the_line_of_every_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '\ufeff\n[\n  {"a": 1},\n  {"a":\n    2},\n\n  {"a": 3}, {"a": 4}, 5\n]\n')
    entries = [(where.removeprefix(f"{path}:"), row) for where, row in read_file(path)]
    assert entries[:4] == [("3", {"a": 1}), ("4", {"a": 2}), ("7", {"a": 3}), ("7 (row 4)", {"a": 4})]
    assert isinstance(entries[4][1], DataError)
    assert "(row 5): the row is a number" in entries[4][1].what


def test_json_may_hold_lines(tmp_path: Path) -> None:
    assert good(write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n')) == [("1", {"a": 1}), ("2", {"a": 2})]
    assert problems(write(tmp_path / "b.json", '{"a": 1\n{"a": 2}\n')) == [
        "1: column 8: the line is cut off (Expecting ',' delimiter)"
    ]
    assert good(write(tmp_path / "c.json", '{"a": 1}')) == [("1", {"a": 1})]


@pytest.mark.parametrize("content", ["", "[]", " [ ] \n", "\n"])
def test_an_empty_json_has_no_row(tmp_path: Path, content: str) -> None:
    assert good(write(tmp_path / "a.json", content)) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"a": 1}\n {"a": 2}]', "a.json:2: a comma or the end of the list is missing after row 1"),
        ('[{"a": 1},\n {"a": 2', "a.json:2: column"),
        ('[{"a": 1}', "missing after row 1"),
        ('[{"a": 1}] x', "missing after row 1"),
        ('[{"a": 1},]', "column 11"),
        ('{\n"data": [{"a": 1}]\n}', "not a list of objects"),
        ('"text"', "not a list of objects"),
        (b'[{"a": "\xff"}]', "byte 9 is not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_json_is_refused_with_its_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    with pytest.raises(DataError, match=r"DATA-01") as caught:
        list(read_file(write(tmp_path / "a.json", content)))
    assert reason in str(caught.value)


def test_csv_keeps_empty_cells_and_names_the_first_line_of_a_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '\ufeffquery,response\n"two\nlines",x\n\nNA,""\n')
    assert good(path) == [("2", {"query": "two\nlines", "response": "x"}), ("5", {"query": "NA", "response": ""})]


def test_csv_reads_cells_of_any_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\n" + "x" * 200_000 + "\n")
    assert len(good(path)[0][1]["a"]) == 200_000


def test_csv_names_bad_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'a,b\n1\n1,2,3\n"x"y,2\n\xff,2\n1,2\n')
    assert [text.partition(" (")[0] for text in problems(path)] == [
        "2: 1 cells for 2 columns",
        "3: 3 cells for 2 columns",
        "4: ',' expected after '\"'",
        '5: "a" is not UTF-8',
    ]
    assert sum(isinstance(row, dict) for _, row in read_file(path)) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a,a\n1,2\n", 'the column "a" is there twice'),
        ('a,b\n1,"2\n3,4\n', "a.csv:2: a quote that opens here is never closed"),
        ('"a"b\n', "a.csv:1: ',' expected"),
    ],
)
def test_a_csv_that_would_lose_rows_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(DataError, match="DATA-01") as caught:
        list(read_file(write(tmp_path / "a.csv", content)))
    assert reason in caught.value.what


def test_parquet(tmp_path: Path) -> None:
    rows = [{"query": "a", "history": [["b", "c"]]}, {"query": None, "history": None}]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert good(path) == [("1", rows[0]), ("2", rows[1])]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="not readable as parquet"):
        list(read_file(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(read_file(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"\.jsonl, \.json, \.csv, .*also as \.gz"):
        list(read_file(write(tmp_path / "a.doc", "x")))


@pytest.mark.parametrize("ending", READERS)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text('[]{}",:\\ud83n1 \n\r\0é', max_size=60).map(str.encode)))
def test_any_bytes_give_rows_or_errors(tmp_path_factory: pytest.TempPathFactory, ending: str, content: bytes) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"fuzz{ending}", content)
    try:
        entries = list(read_file(path))
    except DataError:
        return
    assert all(isinstance(row, dict | DataError) for _, row in entries)
    assert len({where for where, _ in entries}) == len(entries)
    assert json.dumps([row for _, row in entries if isinstance(row, dict)]).encode()


ROWS = [{"query": f"q{i}é", "response": "x" * (i % 7)} for i in range(1, 30)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", COMPRESSED)
@pytest.mark.parametrize("ending", COMPRESSIBLE)
def test_packed_files(tmp_path: Path, ending: str, packed: str) -> None:
    mark = "\t" if ending == ".tsv" else ","
    table = f"query{mark}response\n" + "".join(f"{row['query']}{mark}{row['response']}\n" for row in ROWS)
    content = {".jsonl": LINES, ".json": json.dumps(ROWS).encode(), ".txt": b"a\n\nb\r\n"}.get(ending, table.encode())
    path = write(tmp_path / f"A{ending}{packed}".upper(), PACKERS[packed](content))
    rows = [row for _, row in good(path)]
    assert rows == ([{"text": "a"}, {"text": "b"}] if ending == ".txt" else ROWS)
    write(path, path.read_bytes()[:-12])
    with pytest.raises(DataError, match="DATA-01"):
        list(read_file(path))


def test_a_pyarrow_without_zstd_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise pyarrow.ArrowNotImplementedError("Support for codec 'zstd' not built")

    monkeypatch.setattr("pyarrow.input_stream", refuse)
    with pytest.raises(MissingPackageError, match="cannot read zstd"):
        list(read_file(write(tmp_path / "a.jsonl.zst", zstd(LINES))))


def test_text_is_a_row_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\n  two\n\xff\n")
    entries = list(read_file(path))
    assert entries[:2] == [(f"{path}:1", {"text": "one"}), (f"{path}:3", {"text": "  two"})]
    assert problems(path) == ["4: byte 1 is not UTF-8"]


def test_arrow_as_stream_and_as_file(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    for kind in (pyarrow.ipc.new_stream, pyarrow.ipc.new_file):
        path = tmp_path / "a.arrow"
        with pyarrow.OSFile(str(path), "wb") as sink, kind(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
        assert good(path) == [(str(i), row) for i, row in enumerate(ROWS, 1)]
        assert [where for where, _ in read_file(path, skip=13)] == [f"{path}:{i}" for i in range(14, 30)]
    path.write_bytes(path.read_bytes()[:-90])
    with pytest.raises(DataError, match="not readable as arrow after row"):
        list(read_file(path))


@pytest.mark.parametrize("ending", [e for e in READERS if e != ".txt"])
def test_skipped_rows_keep_the_numbers_of_the_others(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending in (".parquet", ".arrow"):
        table = pyarrow.Table.from_pylist(ROWS)
        if ending == ".parquet":
            pyarrow.parquet.write_table(table, path, row_group_size=10)
        else:
            with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=10)
    else:
        mark = "\t" if ending == ".tsv" else ","
        text = f"query{mark}response\n" + "".join(f"{row['query']}{mark}{row['response']}\n" for row in ROWS)
        write(path, {".jsonl": b"\n" + LINES, ".json": json.dumps(ROWS, indent=1).encode()}.get(ending, text))
    every = good(path)
    for skip in (0, 1, 9, 10, 11, 28, 29, 40):
        assert [(where.removeprefix(f"{path}:"), row) for where, row in read_file(path, skip)] == every[skip:]


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_json_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rows = [{"a": "é" * (i * 5 % 23), "b": [i, {"c": '\n"😀'}]} for i in range(20)]
    text = json.dumps(rows, indent=2, ensure_ascii=False)
    path = write(tmp_path / "a.json", "\ufeff" + text)
    whole = good(path)
    monkeypatch.setattr("swift.datasets.read.CHUNK", chunk)
    assert good(path) == whole
    assert [row for _, row in whole] == rows
    first = text.encode().index("é".encode(), 300)
    write(path, b"\xef\xbb\xbf" + text.encode()[:first] + b"\xff" + text.encode()[first:])
    with pytest.raises(DataError, match=f"byte {first + 4} is not UTF-8"):
        list(read_file(path))
    line = text[: text.index('"b"', 200)].count("\n") + 1
    write(path, text[: text.index('"b"', 200)] + "!" + text[text.index('"b"', 200) :])
    with pytest.raises(DataError, match=rf"a\.json:{line}: column 5: "):
        list(read_file(path))

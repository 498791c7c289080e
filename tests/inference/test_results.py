import errno
import json
from pathlib import Path

import pytest

from swift import storage
from swift.errors import DiskError, OutputError
from swift.inference.results import Results, begin_rows, find_unfinished, open_results

ROW = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "Paris"},
]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_are_in_the_file_as_soon_as_they_are_added(tmp_path):
    path = tmp_path / "r.jsonl"
    results = Results(path, "be kind")
    results.add("你好", "a", [["q", "a"]])
    assert lines(path) == [{"system": "be kind", "query": "你好", "response": "a", "history": [["q", "a"]]}]
    assert "你好" in path.read_text(encoding="utf-8")
    results.add_row(ROW, "Rome")
    assert lines(path)[1:] == [
        {"system": "s", "query": "q2", "response": "Rome", "history": [["q1", "a1"]], "label": "Paris"}
    ]
    assert results.report()["result"] == lines(path)


def test_metrics_are_over_the_rows_that_have_a_label():
    results = Results(None)
    assert results.report() == {"result": []}
    results.add("q", "a", [], "")
    assert results.records[0]["system"] == ""
    assert results.metrics() == {}
    results.add_row(ROW, "Paris")
    results.add_row(ROW, "Rome")
    assert results.report()["metrics"]["exact"] == 50.0


def test_a_row_that_ends_with_a_question_has_no_label():
    results = Results(None)
    assert results.add_row(ROW[:-1], "x") == {"system": "s", "query": "q2", "response": "x", "history": [["q1", "a1"]]}


def test_a_full_disk_leaves_whole_lines_under_another_name(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    results = Results(path)
    results.add("q1", "a1", [])

    def fill(where, value):
        with Path(where).open("ab") as file:
            file.write(b'{"query": "q2", "resp')
        raise storage.disk_error(OSError(errno.ENOSPC, "No space left on device"), where)

    monkeypatch.setattr(storage, "append_jsonl", fill)
    with pytest.raises(DiskError, match="No space left") as caught:
        results.add("q2", "a2", [])
    assert caught.value.exit_code == 74
    assert "r.jsonl.part" in caught.value.fix
    assert not path.exists()
    assert [row["query"] for row in lines(tmp_path / "r.jsonl.part")] == ["q1"]


def test_a_disk_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    def fill(where, value):
        raise storage.disk_error(OSError(errno.ENOSPC, "No space left on device"), where)

    monkeypatch.setattr(storage, "append_jsonl", fill)
    with pytest.raises(DiskError):
        Results(tmp_path / "r.jsonl").add("q", "a", [])
    assert list(tmp_path.iterdir()) == []


def test_every_run_has_a_file_of_its_own(tmp_path):
    first = open_results(None, tmp_path)
    assert first.parent == tmp_path / "infer_result"
    assert not first.exists()
    first.touch()
    second = open_results(None, tmp_path)
    assert second != first
    assert second.suffix == ".jsonl"
    assert open_results(str(tmp_path / "a" / "b"), tmp_path).parent == tmp_path / "a" / "b"


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "infer_result").write_text("a file")
    assert open_results(None, tmp_path) is None
    with pytest.raises(OutputError, match="--result_dir") as caught:
        open_results(str(tmp_path / "infer_result"), tmp_path)
    assert caught.value.exit_code == 73


def test_two_runs_of_the_same_settings_do_not_share_a_file(tmp_path):
    settings = {"dataset": ["d"], "seed": 1}
    path = open_results(str(tmp_path), tmp_path)
    with Results(path, lock=begin_rows(path, settings)) as first:
        first.add("q1", "a1", [])
        with pytest.raises(OutputError, match=f"another run of the same settings is writing its answers to {path}"):
            find_unfinished(tmp_path, settings)
        assert find_unfinished(tmp_path, settings | {"seed": 2}) is None
        assert open_results(str(tmp_path), tmp_path) != path
        with pytest.raises(OutputError):  # both found the same free name
            begin_rows(path, settings | {"seed": 2})
    left, records, lock = find_unfinished(tmp_path, settings)  # the first was killed
    assert (left, [record["query"] for record in records]) == (path, ["q1"])
    with Results(left, lock=lock) as second:
        second.add_back(records)
        with pytest.raises(OutputError):
            find_unfinished(tmp_path, settings)
        second.report()
    assert find_unfinished(tmp_path, settings) is None


def test_a_note_that_is_just_being_written_is_nobodys(tmp_path):
    (tmp_path / "x.unfinished.json").write_text('{"data')
    (tmp_path / "x.jsonl").write_text("")
    assert find_unfinished(tmp_path, {}) is None

from __future__ import annotations

from pathlib import Path

import pytest

from swift.arguments.aliases import NAMES
from swift.datasets import DATASETS
from swift.datasets.spec import DatasetSpec, parse_spec
from swift.errors import NotFoundError, UnknownNameError, UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("chatml.jsonl", "a#b.jsonl", "c:d#3.csv", "folder/2.json", "folder/1.jsonl", "folder/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_name_with_subsets_and_rows() -> None:
    spec = parse_spec("sharegpt:common-en/computer-en#200")
    assert (spec.record, spec.subsets, spec.sample) == (DATASETS["sharegpt"], ("common-en", "computer-en"), 200)
    assert spec.use_hf is None


@pytest.mark.parametrize(
    "text", ["AI-ModelScope/blossom-math-v2", "ai-modelscope/BLOSSOM-math-v2", "Azure99/blossom-math-v2"]
)
def test_a_registered_id_is_its_record_in_any_case(text: str) -> None:
    assert parse_spec(text).record is DATASETS["blossom-math-zh"]


def test_an_id_that_is_not_registered() -> None:
    assert parse_spec("hf::some.one/a-set:en#5") == DatasetSpec(
        "hf::some.one/a-set:en#5", hub_id="some.one/a-set", subsets=("en",), sample=5, use_hf=True
    )
    assert parse_spec("MS::some/set").use_hf is False


@pytest.mark.parametrize(
    ("text", "files", "sample"),
    [
        ("chatml.jsonl", ["chatml.jsonl"], None),
        ("./chatml.jsonl#7", ["chatml.jsonl"], 7),
        ("a#b.jsonl", ["a#b.jsonl"], None),
        ("a#b.jsonl#2", ["a#b.jsonl"], 2),
        ("c:d#3.csv", ["c:d#3.csv"], None),
        ("c:d#3.csv#4", ["c:d#3.csv"], 4),
        ("folder", ["folder/1.jsonl", "folder/2.json"], None),
    ],
)
def test_what_exists_is_a_file_first(text: str, files: list[str], sample: int | None) -> None:
    spec = parse_spec(text)
    assert [str(file) for file in spec.files] == files
    assert spec.sample == sample


def test_old_names_mean_today_s(here: Path) -> None:
    assert all(parse_spec(name).record for name in NAMES["dataset"] if name != "coco-mini-en")  # that is images
    spec = parse_spec("ms-bench-mini")
    assert (spec.record, spec.sample) == (DATASETS["ms-bench"], 20000)
    assert parse_spec("ms-bench-mini#50").sample == 50
    assert parse_spec("sharegpt-en").subsets == ("common-en", "computer-en")
    assert parse_spec("HF::sharegpt-en:common-en").subsets == ("common-en",)


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("alpaca-em", UnknownNameError, "did you mean alpaca-en"),
        ("chat.jsonl", NotFoundError, "did you mean chatml.jsonl"),
        ("data/none.jsonl", NotFoundError, "there is no directory data"),
        ("folder/3.parquet", NotFoundError, "folder/3.parquet does not exist"),
        ("/no/where", NotFoundError, "/no/where does not exist"),
        ("chatml.jsonl:sub", UsageError, "a file has no subsets"),
        ("alpaca-en#many", UsageError, "'many' is not a number of rows"),
        ("alpaca-en#0", UsageError, "'0' is not a number"),
        ("alpaca-en#²", UsageError, "is not a number"),
        ("https://x.org/a.jsonl", UsageError, "a URL is not fetched"),
        ("hf://x/a", UsageError, "a URL is not fetched"),
        ("empty", NotFoundError, "no data file is there"),
        ("HF::alpaca-zz", UnknownNameError, "no dataset is called"),
    ],
)
def test_mistakes_say_what_to_type(text: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        parse_spec(text)
    assert says in str(caught.value)

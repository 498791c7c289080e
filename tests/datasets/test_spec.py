from __future__ import annotations

from pathlib import Path

import pytest

from swift.arguments.aliases import NAMES
from swift.datasets import DATASETS
from swift.datasets.spec import DatasetSpec, absolute_spec, parse_spec
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
        ("folder#3", ["folder/1.jsonl", "folder/2.json"], 3),
        ("folder/*.jsonl", ["folder/1.jsonl"], None),
        ("f*/*[0-9].json*#4", ["folder/1.jsonl", "folder/2.json"], 4),
        ("**/*.csv", ["c:d#3.csv"], None),
        ("clone", ["clone/data/test.parquet", "clone/data/train-0.parquet"], None),
        ("clone:train", ["clone/data/train-0.parquet"], None),
        ("saved:test", ["saved/test/data-0.arrow"], None),
        ("saved:test/train", ["saved/test/data-0.arrow", "saved/train/data-0.arrow"], None),
        ("texts", ["texts/a.txt", "texts/b.txt.gz"], None),
        ("../{here}/../{here}/chatml.jsonl", ["../{here}/../{here}/chatml.jsonl"], None),
        ("link.jsonl", ["link.jsonl"], None),
    ],
)
def test_what_exists_is_a_file_first(here: Path, text: str, files: list[str], sample: int | None) -> None:
    for name in ("clone/data/train-0.parquet", "clone/data/test.parquet", "clone/.git/x.json", "clone/dataset_infos.json",
                 "saved/train/data-0.arrow", "saved/train/state.json", "saved/test/data-0.arrow",
                 "saved/test/dataset_info.json", "texts/a.txt", "texts/b.txt.gz"):  # fmt: skip
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    (here / "link.jsonl").symlink_to(here / "chatml.jsonl")
    spec = parse_spec(text.format(here=here.name))
    assert [str(file) for file in spec.files] == [file.format(here=here.name) for file in files]
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
        ("none*.jsonl", NotFoundError, "no data file is called none*.jsonl"),
        ("folder/*.jsonl:sub", UsageError, "a pattern has no subsets"),
        ("folder:valid", NotFoundError, "no data file is there"),
        ("chatml.jsonl@much", UsageError, "'much' is not a share"),
        ("chatml.jsonl@0", UsageError, "'0' is not a share"),
        ("chatml.jsonl@nan", UsageError, "'nan' is not a share"),
        ("x" * 5000, UnknownNameError, "no dataset is called"),
        ("HF::alpaca-zz", UnknownNameError, "no dataset is called"),
    ],
)
def test_mistakes_say_what_to_type(text: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        parse_spec(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sample", "share"),
    [
        ("chatml.jsonl@0.3", None, 0.3),
        ("chatml.jsonl#50@2", 50, 2.0),
        ("alpaca-en:default#50@0.5", 50, 0.5),
        ("HF::some/set@1e-2", None, 0.01),
        ("ms-bench-mini@0.5", 20000, 0.5),
        ("me@home.jsonl", None, None),
        ("me@home.jsonl@0.5", None, 0.5),
    ],
)
def test_shares_of_a_mix(here: Path, text: str, sample: int | None, share: float | None) -> None:
    (here / "me@home.jsonl").touch()
    spec = parse_spec(text)
    assert (spec.sample, spec.share) == (sample, share)


@pytest.mark.parametrize("rest", ["", "#5", "@0.3", "#5@0.3"])
@pytest.mark.parametrize("path", ["chatml.jsonl", "folder", "a#b.jsonl"])
def test_absolute(here: Path, path: str, rest: str) -> None:
    assert absolute_spec(path + rest) == f"{here.resolve() / path}{rest}"


def test_absolute_leaves_what_is_no_path(here: Path) -> None:
    for text in ("alpaca-en#5", "HF::chatml.jsonl", "some/set:x", "https://x.org/*.jsonl"):
        assert absolute_spec(text) == text
    assert absolute_spec("folder/*.jsonl#2") == f"{here / 'folder/*.jsonl#2'}"


def test_a_directory_of_ten_thousand_files(here: Path) -> None:
    (here / "many").mkdir()
    for i in range(10_000):
        (here / "many" / f"{i:05}.jsonl").touch()
    files = parse_spec("many").files
    assert len(files) == 10_000
    assert list(files) == sorted(files)

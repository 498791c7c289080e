"""`swift models`: what it finds, and what it says of a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.arguments.verbs import ModelsArguments
from swift.cli import dispatch
from swift.commands import models
from swift.commands.models import models_main, search
from swift.errors import DataError, NotFoundError, UnknownNameError, UsageError
from swift.models import MODELS


def names(*words: str, family: str | None = None) -> list[str]:
    return [row.name for row in search(words, family)]


def test_words_are_found_in_any_order_and_capitals():
    assert names("INSTRUCT", "qwen2.5", "7B")[0] == "qwen2_5-7b-instruct"
    assert names("Qwen/Qwen2.5-7B-Instruct")[0] == "qwen2_5-7b-instruct"
    assert names("ForCausalLM", "mamba", "2.8") == ["mamba-2.8b"]
    assert {row.template for row in search(["chatml"])} == {"chatml"}


def test_a_size_within_another_comes_last():
    found = names("qwen2", "7b", "instruct")
    assert "qwen2-57b-a14b-instruct" in found[-2:]


def test_families_and_everything():
    assert len(search([])) == len(MODELS)
    assert {row.family for row in search([], "Yi")} == {"yi"}
    assert names("instruct", "2b", family="yuan") == [
        "yuan2-2b-instruct",
        "yuan2-2b-janus-instruct",
        "yuan2-102b-instruct",
    ]


@pytest.mark.parametrize(
    ("words", "family", "near"),
    [
        (["qwen2-7b-instrct"], None, "qwen2-7b-instruct"),
        ([], "qwne", "qwen"),
        (["mamba"], "yi", "`swift models` lists all"),
    ],
)
def test_nothing_found_names_what_is_near(words: list[str], family: str | None, near: str):
    with pytest.raises(UnknownNameError) as error:
        search(words, family)
    assert near in str(error.value.fix)


def test_json_has_whole_rows(capsys: pytest.CaptureFixture[str]):
    assert dispatch(["models", "chatglm2-6b", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "chatglm2-6b"
    assert rows[0]["own_code"] is True
    assert rows[0]["requires"] == ["transformers<4.42"]


def test_lines_for_pipes_and_a_table_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    models_main(ModelsArguments(search=["chatglm2-6b"]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("\t")[:3] == ["chatglm2-6b", "chatglm2", "ZhipuAI/chatglm2-6b"]
    monkeypatch.setattr(models.sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    models_main(ModelsArguments(search=["chatglm2-6b"]))
    shown = capsys.readouterr().out
    assert "own code, transformers<4.42" in shown
    assert f"of {len(MODELS)} models" in shown


def test_a_directory_is_known_by_its_config(tiny_dir: Path, capsys: pytest.CaptureFixture[str]):
    found = models_main(ModelsArguments(search=[str(tiny_dir)]))
    assert isinstance(found, dict)
    assert (found["class"], found["template"], found["own_code"]) == ("Qwen2ForCausalLM", "auto", [])
    assert found["targets"] == ["q_proj", "k_proj", "v_proj"]
    assert "qwen2-7b-instruct" in found["registered"]
    assert (found["layers"], found["vocabulary"]) == (2, 400)
    assert "q_proj, k_proj, v_proj" in capsys.readouterr().out
    models_main(ModelsArguments(search=[str(tiny_dir)], json=True))
    assert json.loads(capsys.readouterr().out) == found


def test_a_directory_of_an_unknown_class(tmp_path: Path):
    config = {"model_type": "ours", "architectures": ["Ours"], "text_config": {"num_hidden_layers": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("class Ours: ...")
    found = models.describe(tmp_path)
    assert found["own_code"] == ["code.py"]
    assert found["targets"] == ["ALL"]
    assert (found["template"], found["layers"], found["registered"]) == ("default", 3, [])


def test_what_is_no_model_directory(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        models_main(ModelsArguments(search=[str(tmp_path)]))
    with pytest.raises(NotFoundError, match="not a directory"):
        models_main(ModelsArguments(search=[str(tmp_path / "nothing")]))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        models_main(ModelsArguments(search=[str(tmp_path / "file")]))
    (tmp_path / "config.json").write_text('{"model_type": "x", "vision_config": {"a": 1}}')
    with pytest.raises(DataError, match="multimodal"):
        models_main(ModelsArguments(search=[str(tmp_path)]))

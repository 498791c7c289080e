from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from swift import hub
from swift.errors import DataError, MissingPackageError, NotFoundError, RefusedError, UnknownNameError, UsageError
from swift.models import MODELS, ModelRecord
from swift.models.source import ModelSource, find_model, with_weights


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


@pytest.fixture
def asked(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was asked of the hub, which has one tiny model under every id."""
    calls: list[tuple] = []

    def fetch(hub_id, revision=None, *, weights=True, check_latest=True):
        calls.append((hub_id, revision, weights, check_latest))
        return tiny_dir

    monkeypatch.setattr(hub, "fetch_model", fetch)
    return calls


def no_network(*_: object) -> None:
    raise AssertionError("a local path touched the network")


def change(directory: Path, **extra: object) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    return directory


def test_an_unregistered_directory_is_found_without_network(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    source = find_model(None, str(tiny_dir))
    assert source == ModelSource("tiny-qwen2", None, tiny_dir.resolve(), source.config)
    assert source.arch == "Qwen2ForCausalLM"
    assert source.targets == ("q_proj", "k_proj", "v_proj")
    assert with_weights(source) == source


def test_its_size_is_that_of_the_files_it_is_read_from(copy: Path):
    size = (copy / "model.safetensors").stat().st_size
    for other in ("pytorch_model.bin", "consolidated.safetensors"):
        shutil.copy(copy / "model.safetensors", copy / other)
    assert find_model(None, str(copy)).weight_bytes == size


def test_a_registered_name_with_a_directory_keeps_both(tiny_dir: Path):
    source = find_model("qwen2_5-7b-instruct", str(tiny_dir))
    assert (source.name, source.record) == ("qwen2_5-7b-instruct", MODELS["qwen2_5-7b-instruct"])
    assert source.path == tiny_dir.resolve()


def test_targets_follow_the_architecture_that_is_there(tiny_dir: Path, copy: Path):
    """A row says c_attn, the directory holds a Qwen2: the adapter must fit the directory."""
    assert find_model("qwen-7b-chat", str(tiny_dir)).targets == ("q_proj", "k_proj", "v_proj")
    assert find_model("qwen-7b-chat", str(change(copy, architectures=["UnheardOf"]))).targets == ()
    assert find_model("qwen-7b-chat", str(change(copy, architectures=None))).targets == ("c_attn",)
    assert find_model(None, str(copy)).targets == ()


@pytest.mark.parametrize("said", ["~/model", "model"])
def test_home_and_relative_paths_are_directories(said: str, copy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    monkeypatch.chdir(copy.parent)
    assert find_model(None, said).path == copy.resolve()


def test_a_row_may_live_in_a_directory(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODELS, "_records", dict(MODELS._records))
    MODELS.add(ModelRecord("own", "auto", path=str(tiny_dir)))
    assert find_model("own", None).path == tiny_dir.resolve()


def test_nothing_named():
    with pytest.raises(UsageError, match="no model is named"):
        find_model(None, None)


@pytest.mark.parametrize(("said", "fix"), [("qwen-7b-chta", "--model_type qwen-7b-chat"), ("nomodel", "owner/name")])
def test_what_is_neither_here_nor_on_a_hub(said: str, fix: str):
    with pytest.raises(NotFoundError) as caught:
        find_model(None, said)
    assert fix in str(caught.value.fix)


def test_an_unknown_type_hears_the_nearest():
    with pytest.raises(UnknownNameError, match="qwen-7b-chat"):
        find_model("qwen-7b-chta", None)


@pytest.mark.parametrize("said", ["/no/such/dir", "./none", "../none/x", "~/none", "a/b/c", "C:\\x"])
def test_a_missing_path_is_no_hub_id(said: str, asked: list):
    with pytest.raises(NotFoundError, match="not a directory"):
        find_model(None, said)
    assert asked == []


def test_a_lone_word_hears_registered_names(asked: list):
    with pytest.raises(NotFoundError, match="qwen-7b-chat"):
        find_model(None, "qwen-7b-chatt")
    with pytest.raises(NotFoundError) as caught:
        find_model(None, "qwen-7b-chat")
    assert caught.value.fix == "--model_type qwen-7b-chat"
    assert asked == []


def test_a_file_is_not_a_model(copy: Path):
    with pytest.raises(UsageError, match="is a file"):
        find_model(None, str(copy / "config.json"))


@pytest.mark.parametrize(
    ("model_type", "said", "use_hf", "wanted", "name"),
    [
        ("llama3-8b", None, "0", "LLM-Research/Meta-Llama-3-8B", "llama3-8b"),
        ("llama3-8b", None, "1", "meta-llama/Meta-Llama-3-8B", "llama3-8b"),
        (None, "llm-research/meta-llama-3-8b", "0", "LLM-Research/Meta-Llama-3-8B", "llama3-8b"),
        (None, "LLM-Research/Meta-Llama-3-8B", "1", "meta-llama/Meta-Llama-3-8B", "llama3-8b"),
        (None, "someone/Own-Model", "0", "someone/Own-Model", "Own-Model"),
        ("llama3-8b", "someone/Own-Model", "0", "someone/Own-Model", "llama3-8b"),
    ],
)
def test_hub_ids(model_type, said, use_hf, wanted, name, asked: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("USE_HF", use_hf)
    source = find_model(model_type, said, check_latest=False)
    assert asked == [(wanted, None, False, False)]
    assert (source.name, source.hub_id) == (name, wanted)


def test_weights_are_fetched_when_asked_for_and_when_needed(asked: list):
    find_model(None, "someone/model", "v1", download_weights=True)
    with_weights(find_model(None, "someone/model", "v2"))
    assert asked == [
        ("someone/model", "v1", True, True),
        ("someone/model", "v2", False, True),
        ("someone/model", "v2", True, False),
    ]


def test_a_row_may_pin_its_revision_and_lack_a_hub(asked: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MODELS, "_records", dict(MODELS._records))
    MODELS.add(ModelRecord("pinned", "auto", ms="someone/pinned", revision="v3"))
    monkeypatch.setenv("USE_HF", "0")
    assert find_model("pinned", None).revision == "v3"
    assert find_model("pinned", None, "v4").revision == "v4"
    monkeypatch.setenv("USE_HF", "1")
    with pytest.raises(NotFoundError, match="not on this hub"):
        find_model("pinned", None)


def test_code_that_a_second_download_changed_does_not_run(copy: Path, monkeypatch: pytest.MonkeyPatch):
    change(copy, model_type="strange", auto_map={"AutoModelForCausalLM": "modeling.M"})
    (copy / "modeling.py").write_text("")
    monkeypatch.setattr(hub, "fetch_model", lambda *_, **__: copy)
    source = find_model(None, "someone/strange", trust_remote_code=True)
    with_weights(source)
    (copy / "modeling.py").write_text("# other")
    with pytest.raises(RefusedError, match="changed"):
        with_weights(source)


def test_foreign_code_is_refused_with_the_commit_of_the_download(copy: Path, monkeypatch: pytest.MonkeyPatch):
    commit = "0123456789" * 4
    cached = copy.rename(copy.with_name(commit))
    (cached / "modeling.py").write_text("")
    change(cached, model_type="strange", auto_map={"AutoModelForCausalLM": "modeling.M"})
    monkeypatch.setattr(hub, "fetch_model", lambda *_, **__: cached)
    with pytest.raises(RefusedError, match=f"--model_revision {commit}"):
        find_model(None, "someone/strange")
    with pytest.raises(RefusedError, match=r"--trust_remote_code true$"):
        find_model(None, str(cached))
    assert find_model(None, "someone/strange", trust_remote_code=True).revision == commit
    assert find_model(None, str(cached), trust_remote_code=True).trusted
    assert not find_model(None, str(change(cached, model_type="qwen2")), trust_remote_code=True).trusted


def test_damage_is_found_before_loading(copy: Path):
    (copy / "model.safetensors").write_bytes(b"123")
    with pytest.raises(DataError, match="safetensors"):
        find_model(None, str(copy))


def test_a_quantised_model_says_what_it_needs(copy: Path, monkeypatch: pytest.MonkeyPatch):
    change(copy, quantization_config={"quant_method": "gptq"})
    monkeypatch.setattr("swift.models.quantisation.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="gptqmodel and optimum") as caught:
        find_model(None, str(copy))
    assert caught.value.fix == "pip install 'swift-finetune[quant]'"
    monkeypatch.setattr("swift.models.quantisation.find_spec", lambda name: object())
    assert find_model(None, str(copy)).config["quantization_config"]


def test_what_own_code_was_written_for_is_told(copy: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr("swift.models.source.logger.warning", told.append)
    find_model("chatglm2-6b", str(copy))
    (copy / "code.py").write_text("class Own: ...")
    change(copy, model_type="chatglm", auto_map={"AutoModelForCausalLM": "code.Own"})
    find_model("glm4-9b", str(copy), trust_remote_code=True)
    assert told == []
    find_model("chatglm2-6b", str(copy), trust_remote_code=True)
    assert told == ["chatglm2-6b: its own code was written for transformers<4.42"]

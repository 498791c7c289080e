"""What is fetched is there whole, or not at all; what was fetched before a failure is not fetched again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift import checkpoint as checkpoints
from swift import cli, storage
from swift.commands.pull import pull_main
from swift.commands.push import push_main
from swift.errors import DataError, NotFoundError, OutputError, SwiftError, UsageError
from swift.publish.huggingface import HuggingFace
from tests.publish.conftest import BOTH, OTHERS
from tests.publish.server import COMMIT, Hub

OF_HUGGING_FACE = pytest.mark.parametrize("hub", ["Hugging Face"], indirect=True)
DOWNLOAD = "GET .*(/resolve/|/repo[?])"


@pytest.fixture
def published(hub: Hub, checkpoint: Path) -> Hub:
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    hub.asked.clear()
    return hub


@BOTH
def test_it_comes_back_as_it_went(published: Hub, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    target = tmp_path / "back"
    assert cli.main(["pull", "ann/mine", "--output_dir", str(target), "--json", "true"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told == {**told, "repo": "ann/mine", "directory": str(target), "files": 7, "manifests": 1}
    there = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert there == published.repos["ann/mine"].files
    assert storage.verify(target) == []


def test_a_checkpoint_can_be_gone_on_from(published: Hub, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "scheduler.pt").write_bytes(b"1")
    (checkpoint / "rng_state.pth").write_bytes(b"2")
    storage.rewrite(checkpoint, "scheduler.pt", b"1")
    storage.rewrite(checkpoint, "rng_state.pth", b"2")
    push_main(directory=str(checkpoint), hub_model_id="ann/mine", with_state=True, path_in_repo="last-checkpoint")
    pulled = pull_main(hub_model_id="ann/mine", output_dir=str(tmp_path / "back"))
    assert pulled["manifests"] == 2
    checkpoints.check_resumable(tmp_path / "back" / "last-checkpoint")


def test_what_was_fetched_is_not_fetched_again(published: Hub, tmp_path: Path) -> None:
    published.fail("GET .*adapter_model", 403, times=10_000)
    target = tmp_path / "back"
    with pytest.raises(SwiftError) as caught:
        pull_main(hub_model_id="ann/mine", output_dir=str(target))
    assert caught.value.exit_code == 77
    assert not target.exists()
    published.faults.clear()
    pull_main(hub_model_id="ann/mine", output_dir=str(target))
    assert storage.verify(target) == []
    assert not list(tmp_path.glob(".back*"))
    assert published.count("GET .*chat_template") == 1


def test_what_another_repository_left_does_not_come_in(published: Hub, tmp_path: Path) -> None:
    work, target = tmp_path / ".mine.pulling", tmp_path / "mine"
    (work / "data").mkdir(parents=True)
    for name in ("left.json", "data/rows.json", "chat_template.jinja"):  # of a pull that was interrupted
        (work / name).write_text("his")
    pull_main(hub_model_id="ann/mine", output_dir=str(target))
    there = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert there == published.repos["ann/mine"].files


@OF_HUGGING_FACE
def test_one_faulty_file_costs_no_other(published: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: HuggingFace, repo: str, revision: str | None, target: Path) -> None:
        fetch(self, repo, revision, target)
        (target / "chat_template.jinja").write_text("spoilt")

    fetch, target = HuggingFace.fetch, tmp_path / "back"
    with monkeypatch.context() as once:
        once.setattr(HuggingFace, "fetch", spoilt)
        with pytest.raises(DataError, match=r"chat_template\.jinja has"):
            pull_main(hub_model_id="ann/mine", output_dir=str(target))
    left = {path.name for path in (tmp_path / ".back.pulling").rglob("*")}
    assert "adapter_model.safetensors" in left
    assert "chat_template.jinja" not in left
    pull_main(hub_model_id="ann/mine", output_dir=str(target))
    assert storage.verify(target) == []


@OF_HUGGING_FACE
def test_what_is_fetched_and_listed_is_one_commit(published: Hub, tmp_path: Path) -> None:
    pull_main(hub_model_id="ann/mine", output_dir=str(tmp_path / "back"), revision="next")
    assert published.count("GET .*/revision/next") == 1
    assert published.count("/(tree|resolve|revision)/(?!next)") == published.count(f"/(tree|resolve|revision)/{COMMIT}")
    assert published.count("/(tree|resolve)/next") == 0


@pytest.mark.parametrize("status", [500, 0])
def test_a_download_that_breaks_off_is_tried_again(published: Hub, tmp_path: Path, status: int) -> None:
    published.fail(DOWNLOAD, status)
    pull_main(hub_model_id="ann/mine", output_dir=str(tmp_path / "back"))
    assert storage.verify(tmp_path / "back") == []


@BOTH
def test_what_was_changed_on_the_hub_does_not_come_in(published: Hub, tmp_path: Path) -> None:
    files = published.repos["ann/mine"].files
    files["adapter_model.safetensors"] = files["adapter_model.safetensors"][:-1] + b"\x01"
    with pytest.raises(DataError, match=r"adapter_model\.safetensors was changed after it was written") as caught:
        pull_main(hub_model_id="ann/mine", output_dir=str(tmp_path / "back"))
    assert caught.value.code == "HUB-03"
    assert not (tmp_path / "back").exists()


@BOTH
def test_mistakes(published: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is no repository"):
        pull_main(hub_model_id="mine")
    with pytest.raises(OutputError, match="run exists"):
        pull_main(hub_model_id="ann/mine", output_dir=str(tmp_path / "run"))
    with pytest.raises(NotFoundError, match="ann/none"):
        pull_main(hub_model_id="ann/none")
    published.repos["ann/mine"].private = True
    with pytest.raises(NotFoundError, match="ann/mine"):
        pull_main(hub_model_id="ann/mine", hub_token=OTHERS)

"""What leaves arrives, whole and no more than it should; what a hub answers is said and, where it may pass, tried again."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors.torch import load, save_file

import swift
from swift import cli, storage
from swift.arguments.export import ExportArguments
from swift.arguments.reading import parse
from swift.arguments.sft import SftArguments
from swift.commands.push import push_main
from swift.errors import RefusedError, SwiftError
from swift.publish import token
from swift.publish.contents import files_of_model
from swift.publish.told import own_card
from swift.redact import redact_text
from swift.tuners.files import write_card as write_stub
from tests.publish.conftest import BOTH, OTHERS, TOKEN
from tests.publish.server import Hub

FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "images/train_loss.png",
    "manifest.json",
    "sft_args.json",
}


def front(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---")[1])


@BOTH
def test_a_checkpoint_arrives(hub: Hub, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert cli.main(["push", str(checkpoint), "--hub_model_id", "mine", "--commit_message", "first"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("published: ")
    assert "7 files" in out
    assert len(out.splitlines()) == 1
    repo = hub.repos["ann/mine"]
    assert set(repo.files) == FILES
    assert not repo.private
    assert repo.messages[0].startswith("first")
    assert load(repo.files["adapter_model.safetensors"])["a.lora_A.weight"].tolist() == torch.ones(4, 8).tolist()
    told = json.loads(repo.files["sft_args.json"])
    assert told["dataset"] == ["chat.jsonl#20", "AI-ModelScope/alpaca-gpt4-data-en"]
    assert (told["model_id_or_path"], told["output_dir"], told["system"]) == ("tiny-base", "run", "/no_think")
    assert not any(str(tmp_path).encode() in data for data in repo.files.values())
    there = tmp_path / "there"
    for name, data in repo.files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(data)
    assert storage.verify(there) == []
    assert storage.read_manifest(there)["run"]["model"] == "tiny-base"
    assert TOKEN not in out + err + json.dumps(hub.asked)
    assert not list(tmp_path.rglob("*push*"))


def test_the_card_says_what_is_known(hub: Hub, checkpoint: Path) -> None:
    push_main(directory=str(checkpoint), hub_model_id="ann/mine", hub_license="mit")
    card = hub.repos["ann/mine"].files["README.md"]
    assert front(card)["license"] == "mit"
    assert front(card)["library_name"] == "peft"
    text = card.decode()
    assert "18 rows, 1,234 learnt tokens" in text
    assert "`tiny-base`" in text
    assert "| chat.jsonl#20 | 20 | 18 | 1 | 1 | 1,234 |" in text
    assert "Left out: 1 longer than --max_length." in text
    assert "| 4 | 2.2500 | 0.5000 |" in text
    assert "![training loss](images/train_loss.png)" in text
    assert "| `--lora_rank` | `4` |" in text
    assert "hub_token" not in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert ("snapshot_download" in code) == (os.environ["USE_HF"] == "0")


@BOTH
def test_nothing_is_sent_twice_and_what_changed_is(hub: Hub, checkpoint: Path) -> None:
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    again = push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert again["sent"] == []
    assert set(again["same"]) == FILES
    assert len(hub.repos["ann/mine"].messages) == 1
    storage.rewrite(checkpoint, "chat_template.jinja", b"{{ other }}")
    third = push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert set(third["sent"]) == {"chat_template.jinja", "manifest.json"}
    assert hub.repos["ann/mine"].files["chat_template.jinja"] == b"{{ other }}"


def test_the_name_is_found_and_the_run_stands_for_its_newest(hub: Hub, checkpoint: Path) -> None:
    pushed = push_main(directory=str(checkpoint.parent))
    assert pushed["repo"] == "ann/tiny-base-lora"
    assert "checkpoint-4" in hub.repos["ann/tiny-base-lora"].messages[0]


def test_all_that_resuming_needs_goes_into_a_folder(hub: Hub, checkpoint: Path) -> None:
    pushed = push_main(directory=str(checkpoint), hub_model_id="ann/mine", with_state=True, path_in_repo="last/")
    files = hub.repos["ann/mine"].files
    assert {"last/optimizer.pt", "last/trainer_state.json", "last/manifest.json"} <= set(files)
    assert all(name.startswith("last/") for name in files)
    assert pushed["left"] == ["README.md"]
    assert json.loads(files["last/trainer_state.json"])["best_model_checkpoint"] == "checkpoint-4"


def test_a_folder_gets_no_card_of_a_library_and_the_one_that_somebody_wrote(hub: Hub, checkpoint: Path) -> None:
    stub = "---\nbase_model: /home/ann/base\n---\n[More Information Needed]\n"  # as PEFT writes it
    storage.rewrite(checkpoint, "README.md", stub.encode())
    push_main(directory=str(checkpoint), hub_model_id="ann/mine", path_in_repo="last")
    files = hub.repos["ann/mine"].files
    assert "last/README.md" not in files
    assert "README.md" not in json.loads(files["last/manifest.json"])["files"]
    storage.rewrite(checkpoint, "README.md", b"# By hand\n")
    push_main(directory=str(checkpoint), hub_model_id="ann/mine", path_in_repo="last")
    assert hub.repos["ann/mine"].files["last/README.md"] == b"# By hand\n"


def test_the_stub_that_adapters_are_saved_with_is_nobody_s_card(tmp_path: Path) -> None:
    for number, base in enumerate((None, "/home/ann/base")):
        place = tmp_path / str(number)
        place.mkdir()
        write_stub(place, place, {"default": LoraConfig(), "other": LoraConfig()}, base)
        assert not own_card(place)
        with (place / "README.md").open("a") as file:
            file.write("\nWhat I found out.\n")
        assert own_card(place)


def test_a_card_somebody_wrote_stays(hub: Hub, checkpoint: Path) -> None:
    (checkpoint / "README.md").write_text("# By hand\n")
    # it was listed in the manifest: changed without saying so is damage, as for every file
    with pytest.raises(SwiftError, match=r"README\.md .*instead of"):
        push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    storage.rewrite(checkpoint, "README.md", b"# By hand\n")
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert hub.repos["ann/mine"].files["README.md"] == b"# By hand\n"


def test_a_model_without_a_manifest_leaves_what_is_of_a_model(hub: Hub, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / ".git").mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, model / "model.safetensors")
    for name in ("config.json", "pytorch_model.bin", "training_args.bin", "notes.log", ".env", ".git/config", "x.pkl"):
        (model / name).write_text("{}")
    pushed = push_main(directory=str(model), hub_model_id="ann/model")
    assert set(hub.repos["ann/model"].files) == {"README.md", "config.json", "model.safetensors"}
    assert set(pushed["left"]) == {
        "pytorch_model.bin",
        "training_args.bin",
        "notes.log",
        ".env",
        ".git/config",
        "x.pkl",
    }


def test_private_files_beside_a_model_stay(tmp_path: Path) -> None:
    written = {
        "config.json": {"auto_map": {"AutoModel": "modeling_mine.Model", "AutoConfig": "ann/x--other.Config"}},
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["tokens.Tokenizer", None]}},
        "modules.json": [{"path": ""}, {"path": "1_Pooling"}],
    }
    code = {"modeling_mine.py": "from .layers import Layer\n", "layers.py": "", "tokens.py": ""}
    weights = ["model.safetensors", "adapter/adapter_model.safetensors"]
    leaving = [*weights, "model.safetensors.index.json", "tokenizer.json", "vocab.json", "chat_template.jinja"]
    leaving += ["adapter/adapter_config.json", "1_Pooling/config.json"]
    private = ["customers.json", "x.py", "other.py", "data/config.json", "data/rows.json", "adapter/notes.json"]
    private += ["src/modeling_mine.py", "expense_report.json", "adapter/train.py"]
    for name in [*leaving, *private, *written, *code]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code.get(name) or json.dumps(written.get(name, {})))
    present = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert files_of_model(tmp_path, present) == {*leaving, *written, *code}


def test_a_dry_run_asks_nobody(hub: Hub, checkpoint: Path, capfd: pytest.CaptureFixture) -> None:
    assert cli.main(["push", str(checkpoint), "--dry_run", "true"]) == 0
    out = capfd.readouterr().out
    assert "<you>/tiny-base-lora" in out
    assert "adapter_model.safetensors" in out
    assert "# tiny-base-lora" in out
    assert "stays here: optimizer.pt, trainer_state.json" in out
    assert hub.asked == []


@BOTH
def test_what_will_not_pass_is_said_at_once(hub: Hub, checkpoint: Path) -> None:
    for number, (status, code, exit_code, said) in enumerate(
        [
            (401, "HUB-01", 77, "does not take the token"),
            (403, "HUB-02", 77, "does not allow this for ann/mine"),
            (404, "FOUND-02", 66, "gives no ann/mine"),
            (413, "HUB-02", 77, "has no room"),
        ],
        start=1,
    ):
        hub.fail("POST .*/commit/", status)
        with pytest.raises(SwiftError, match=said) as caught:
            push_main(directory=str(checkpoint), hub_model_id="ann/mine")
        assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
        assert hub.count("POST .*/commit/") == number
    assert hub.repos["ann/mine"].files == {}


LIST, STORE, COMMIT = "GET .*(tree|repo/files)", "PUT /blobs/", "POST .*/commit/"


@BOTH
def test_what_may_pass_is_tried_again(hub: Hub, checkpoint: Path) -> None:
    for where, status in ((LIST, 429), (STORE, 0), (COMMIT, 409), (COMMIT, 503)):
        hub.fail(where, status)
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert set(hub.repos["ann/mine"].files) == FILES
    assert not any(fault.times for fault in hub.faults)


@pytest.mark.slow
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 0])
@pytest.mark.parametrize("where", [LIST, STORE, COMMIT])
def test_wherever_it_fails_it_is_tried_again(hub: Hub, checkpoint: Path, status: int, where: str) -> None:
    hub.fail(where, status)
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert set(hub.repos["ann/mine"].files) == FILES
    assert hub.faults[0].times == 0


def test_an_answer_that_is_lost_makes_no_second_commit(hub: Hub, checkpoint: Path) -> None:
    hub.fail("POST .*/commit/", 0, after=True)
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert len(hub.repos["ann/mine"].messages) == 1


def test_weights_that_arrived_are_not_sent_again(hub: Hub, checkpoint: Path) -> None:
    hub.fail("POST .*/commit/", 403, times=99)
    with pytest.raises(RefusedError):
        push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    sent = hub.count("PUT /blobs/")
    assert sent
    hub.faults.clear()
    push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert hub.count("PUT /blobs/") == sent


def test_a_hub_that_stays_away_ends_with_75(hub: Hub, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.fail("GET .*(tree|repo/files)", 503, times=10_000, said="closed for today")
    with pytest.raises(SwiftError, match=r"failed \(503\): closed for today") as caught:
        push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert (caught.value.code, caught.value.exit_code) == ("FOUND-02", 75)
    assert "attempt 1 of 4" in caplog.text
    assert "attempt 3 of 4" in caplog.text


@BOTH
def test_what_arrives_other_than_it_left_is_an_error(hub: Hub, checkpoint: Path) -> None:
    hub.spoils = True
    with pytest.raises(SwiftError, match="has other content there") as caught:
        push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert (caught.value.code, caught.value.exit_code) == ("HUB-03", 75)


@BOTH
def test_what_is_to_be_private_is(hub: Hub, checkpoint: Path) -> None:
    push_main(directory=str(checkpoint), hub_model_id="ann/closed", hub_private_repo=True)
    assert hub.repos["ann/closed"].private
    push_main(directory=str(checkpoint), hub_model_id="ann/open")
    with pytest.raises(RefusedError, match="everybody can see it"):
        push_main(directory=str(checkpoint), hub_model_id="ann/open", hub_private_repo=True)


def test_python_publishes_too(hub: Hub, checkpoint: Path) -> None:
    told = swift.push_to_hub("mine", checkpoint, token=TOKEN, commit_message="by hand")
    assert told["repo"] == "ann/mine"
    assert hub.repos["ann/mine"].private
    assert hub.repos["ann/mine"].messages[0] == "by hand"


def test_another_s_repository_is_refused(hub: Hub, checkpoint: Path) -> None:
    with pytest.raises(RefusedError, match=r"bob/mine .*403"):
        push_main(directory=str(checkpoint), hub_model_id="bob/mine")


def test_a_token_of_the_command_line_is_nowhere_else(
    hub: Hub, checkpoint: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    own = "plain-words-0123456789"  # of no known shape
    hub.users[own] = "ann"
    assert cli.main(["push", str(checkpoint), "--hub_model_id", "mine", "--hub_token", own, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["repo"] == "ann/mine"
    stored = b"".join(hub.repos["ann/mine"].files.values())
    assert own not in out + err + caplog.text
    assert own.encode() not in stored
    assert redact_text(f"error for {own}") == "error for ***"
    hub.fail(".*", 401, times=99, said=f"token {own} is not known")
    assert cli.main(["push", str(checkpoint), "--hub_model_id", "mine", "--debug"]) == 77
    assert own not in capfd.readouterr().err


@pytest.mark.parametrize(
    "words", [["--hub_token", "secret-0"], ["--hub-token=secret-0"], ["--push_to_hub_token", "secret-0"]]
)
def test_processes_that_are_started_get_it_by_the_environment(
    hub: Hub, words: list[str], capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    argv = ["--dataset", "a", *words, "--push_to_hub", "true"]
    assert token.into_environment(parse(SftArguments, argv, quiet=True), argv) == [*argv[:2], *argv[-2:]]
    assert "secret-0" in (os.environ.get("HF_TOKEN"), os.environ.get("MODELSCOPE_API_TOKEN"))
    assert "secret-0" not in caplog.text
    emit = ["launch", "--emit", "slurm", "--", "sft", "--model_type", "demo-chat", "--dataset", "a", *words]
    assert cli.main(emit) == 2
    assert "secret-0" not in capsys.readouterr().out


@BOTH
def test_a_wrong_token_and_none(hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="does not take the token") as caught:
        push_main(directory=str(checkpoint), hub_model_id="mine", hub_token=OTHERS[::-1])
    assert caught.value.code == "HUB-01"
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(RefusedError, match="there is no token") as caught:
        push_main(directory=str(checkpoint), hub_model_id="mine")
    assert caught.value.code == "HUB-01"
    assert "export " in str(caught.value.fix)


def test_damage_does_not_leave(hub: Hub, checkpoint: Path) -> None:
    data = bytearray((checkpoint / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint / "adapter_model.safetensors").write_bytes(bytes(data))
    with pytest.raises(SwiftError, match=r"adapter_model\.safetensors was changed after it was written"):
        push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert hub.count("POST") == 0


def test_secrets_keep_all_from_leaving(hub: Hub, checkpoint: Path, capfd: pytest.CaptureFixture) -> None:
    text = f"first line\nsee /home/ann/notes/x\nhf_{'Qq1' * 9}\n".encode()
    storage.rewrite(checkpoint, "README.md", text)
    assert cli.main(["push", str(checkpoint), "--hub_model_id", "ann/mine"]) == 77
    err = capfd.readouterr().err
    assert "README.md:2 holds a path of this machine, /home/ann/…" in err
    assert "README.md:3 holds a token" in err
    assert "Qq1Qq1" not in err
    assert hub.count("POST") == 0
    allowed = ["README.md:2", "README.md:3"]
    pushed = push_main(directory=str(checkpoint), hub_model_id="ann/mine", allow_leak=allowed)
    assert hub.repos["ann/mine"].files["README.md"] == text
    assert len(pushed["leaks"]) == 2


def test_offline_is_said(hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ["USE_HF"] == "0":
        pytest.skip("a switch of Hugging Face's library")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SwiftError, match="HF_HUB_OFFLINE is set") as caught:
        push_main(directory=str(checkpoint), hub_model_id="ann/mine")
    assert caught.value.exit_code == 75
    assert hub.asked == []


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def test_an_export_publishes_what_it_wrote_last(
    hub: Hub, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    merged = tmp_path / "run" / "checkpoint-4-merged"

    def merge(args: ExportArguments) -> str:
        with storage.staged_directory(merged, {"base": str(tmp_path / "models" / "tiny-base")}) as stage:
            save_file({"w": torch.zeros(2)}, stage / "model.safetensors")
            storage.write_json(stage / "config.json", {"_name_or_path": str(tmp_path / "models" / "tiny-base")})
            storage.write_text(stage / "README.md", (tmp_path / "models" / "tiny-base" / "README.md").read_text())
            storage.write_json(stage / "sft_args.json", {"sft_type": "full"})
            storage.write_json(stage / "merge_report.json", {"base": str(tmp_path / "models" / "tiny-base")})
        return str(merged)

    monkeypatch.setattr("swift.commands.merge.merge_lora", merge)
    shutil.copy(checkpoint / "sft_args.json", checkpoint.parent)
    words = ["export", "--ckpt_dir", str(checkpoint), "--push_to_hub", "true", "--hub_model_id", "mine"]
    assert cli.main(words) == 0
    assert "adapter_model.safetensors" in hub.repos["ann/mine"].files
    assert cli.main([*words[:-1], "merged", "--merge_lora", "true", "--commit_message", "both"]) == 0
    repo = hub.repos["ann/merged"]
    assert "model.safetensors" in repo.files
    assert "adapter_model.safetensors" not in repo.files
    assert repo.messages[0] == "both"
    card = repo.files["README.md"].decode()  # not that of the base
    assert front(repo.files["README.md"])["library_name"] == "transformers"
    assert "A fine-tuned model of `tiny-base`, trained with lora on 18 rows" in card
    assert "| 4 | 2.2500 | 0.5000 |" in card
    assert capsys.readouterr().out.count("published: ") == 2
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("swift.commands.merge.merge_lora", lambda args: pytest.fail("merged before it was known"))
    assert cli.main([*words, "--merge_lora", "true"]) == 77

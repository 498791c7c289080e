"""The pages as programs meet them: what is asked for starts, is watched and stopped; who may not come in does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from swift.arguments.web_ui import WebUIArguments
from swift.commands.web_ui import end_with_its_terminal, read_access, web_ui_main
from swift.errors import ConfigError, SwiftError
from swift.storage import HOLDER
from swift.studio.jobs import Jobs
from swift.studio.looking import Look, Looker
from swift.studio.offers import TRAIN
from swift.studio.words import CHINESE, ENGLISH, choose_words

pytest.importorskip("gradio", reason="gradio is not installed")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    place = tmp_path_factory.mktemp("workspace")
    found = web_ui_main([], prevent_thread_lock=True, workspace=str(place), port=0, lang="en")
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(served: Any) -> Any:
    """The page of `swift sft`, as it was drawn."""
    from swift.studio.page import build
    from swift.studio.train_page import TrainPage

    assert build
    import gradio as gr

    with gr.Blocks():
        return TrainPage(served.studio, ENGLISH)


def values(page: Any, **entered: Any) -> list[Any]:
    said = {"model_type": "demo-chat", "dataset": ["self-cognition"], **entered}
    held = {name: field.default for name, field in page.fields.items()} | said
    return ["sft", *(held[name] for name in page.fields)]


def answer(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_only_this_page_and_this_host_are_answered(served: Any) -> None:
    url = served.url
    port = url.rsplit(":", 1)[1].strip("/")
    assert answer(url) == 200
    assert answer(url, Host="evil.example") == 400
    assert answer(url, Origin="http://evil.example") == 403
    assert answer(url, Origin=f"http://127.0.0.1:{port}") == 200
    join = urllib.request.Request(f"{url}gradio_api/queue/join", b"{}", {"Origin": "null", "Content-Type": "text/plain"})  # fmt: skip
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(join)
    with urllib.request.urlopen(url) as response:
        assert "default-src 'self'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/secret.txt", "../secret.txt", "{root}/.swift-studio/jobs"])
def test_no_file_is_served(served: Any, path: str) -> None:
    root = served.studio.workspace.root
    (root / "secret.txt").write_text("hush")
    assert answer(f"{served.url}gradio_api/file={path.format(root=root)}") in (403, 404)


def join(url: str, call: dict[str, Any]) -> dict[str, Any]:
    """How a call by the number of its function ended, as a browser makes it."""
    call = {"session_hash": "tab", "event_data": None, "trigger_id": None, **call}
    said = {"content-type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/queue/join", json.dumps(call).encode(), said))
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=tab") as events:
        lines = (json.loads(line[5:]) for line in events if line.startswith(b"data:"))
        return next(line for line in lines if line["msg"] == "process_completed")


def upload(url: str, name: str, text: bytes) -> str:
    """Where a file lies that a browser sent."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    said = {"content-type": "multipart/form-data; boundary=x"}
    body = head + text + b"\r\n--x--\r\n"
    with urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, said)) as response:
        return json.load(response)[0]


def left(uploads: Path) -> list[Path]:
    """What lies there, but for Gradio's own empty files."""
    return [path for path in uploads.rglob("*") if path.is_dir() or path.stat().st_size]


def test_a_path_that_a_browser_names_is_of_an_upload(served: Any, tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text("hush")
    with urllib.request.urlopen(f"{served.url}config") as response:
        config = json.load(response)
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    number, inputs = next(
        (each["id"], each["inputs"]) for each in config["dependencies"] if [ids["upload"], "upload"] in each["targets"]
    )
    uploads = served.studio.workspace.uploads

    def take(path: str) -> dict[str, Any]:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        values = [[file] if part == ids["upload"] else [] for part in inputs]
        return join(served.url, {"fn_index": number, "data": values})

    ended = take(str(tmp_path / "outside.jsonl"))
    assert not ended["success"]
    assert left(uploads) == []
    ended = take(upload(served.url, "mine.jsonl", b"{}"))
    assert ended["success"], ended
    assert "data/mine.jsonl" in str(ended["output"])
    assert left(uploads) == []


def test_an_upload_that_breaks_off_is_no_fault(served: Any, capfd: pytest.CaptureFixture[str]) -> None:
    place = urlsplit(served.url)
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 99999\r\n"
    with socket.create_connection((place.hostname, place.port)) as tab:
        tab.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        time.sleep(0.5)
    time.sleep(0.5)
    assert answer(served.url) == 200
    assert "Traceback" not in capfd.readouterr().err


def test_programs_ask_for_the_same_with_the_same_limits(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio_client import Client

    began: list[Any] = []
    monkeypatch.setattr(Jobs, "start", lambda self, *said: began.append(said))
    client = Client(served.url, verbose=False)
    offered = client.view_api(return_format="dict", print_info=False)
    assert set(offered["named_endpoints"]) == {"/start", "/stop", "/resume", "/runs", "/task"}
    assert client.predict(api_name="/runs") == []
    options = {"model_type": "demo-chat", "dataset": ["self-cognition"], "lora_rank": 4}
    assert client.predict("sft", options, "mine", api_name="/start") == {"run": "output/demo-chat/mine"}
    assert "--lora_rank 4" in " ".join(began[0][1])
    for evil in (
        {"custom_register_path": ["x.py"]},
        {"output_dir": "/"},
        {"dataset": ["/etc/passwd"]},
        {"trust_remote_code": True},
        {"lora_rank": "x"},
    ):
        assert "error" in client.predict("sft", {**options, **evil}, "", api_name="/start")
    assert "is no command" in client.predict("deploy", options, "", api_name="/start")["error"]
    assert "no run" in client.predict("../../etc", api_name="/stop")["error"]
    assert "no run" in client.predict("../../etc", api_name="/resume")["error"]
    assert "no directory" in client.predict("export", "/etc", {"merge_lora": True}, api_name="/task")["error"]
    assert len(began) == 1


def test_a_run_is_started_from_the_page(served: Any, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Any] = []
    monkeypatch.setattr(Jobs, "start", lambda self, *said: began.append(said))
    told, output = page._start("mine", *values(page, max_steps="7", system="; touch x"), "2", "")
    assert output == "output/demo-chat/mine"
    assert "Started" in told
    command, words, variables, where = began[0]
    assert (command, variables, where) == ("sft", {"NPROC_PER_NODE": "2"}, output)
    assert words[words.index("--system") + 1] == "; touch x"
    told, output = page._start("mine", *values(page, dataset=["/etc/passwd"]), "", "")
    assert output == ""
    assert "outside the workspace" in told
    told, _ = page._start("../x", *values(page), "", "")
    assert "cannot be the name of a run" in told
    assert "cannot be" in page._start("", *values(page), "1 LD_PRELOAD=x", "")[0]
    assert len(began) == 1


def test_the_command_follows_what_is_entered(page: Any) -> None:
    typed, problems = page._show_command(*values(page, lora_rank="16"), "", "0,1")
    assert typed.split("\\\n")[0].strip() == "CUDA_VISIBLE_DEVICES=0,1 swift sft"
    assert "--lora_rank 16" in typed
    assert problems == ""
    _, problems = page._show_command(*values(page, lora_rank="many", dataset=[]), "", "")
    assert "lora_rank takes a whole number" in problems
    file, _ = page._yaml(*values(page, lora_rank="16"))
    assert "lora_rank: 16" in file


def test_another_kind_keeps_what_was_entered(page: Any) -> None:
    before = values(page, lora_rank="16")[1:]
    kind, *updates = page._switch("rlhf", "sft", *before)
    fields = dict(zip(page.fields, updates[-len(page.fields) :], strict=True))
    assert kind == "rlhf"
    assert "value" not in fields["lora_rank"]
    assert "value" not in fields["model_type"]
    assert fields["beta"]["visible"]
    assert not fields["text_unit"]["visible"]
    fields = dict(zip(page.fields, page._switch("pt", "sft", *before)[-len(page.fields) :], strict=True))
    assert fields["sft_type"]["value"] == "full"
    assert fields["packing"]["value"] is True
    assert {"split"} < {value for _, value in fields["truncation_strategy"]["choices"]}


def test_options_are_searched(page: Any) -> None:
    found, *rest = page._search("dropout lora", "sft")
    assert "options" in found
    groups, fields = rest[: len(page.accordions)], rest[len(page.accordions) :]
    names = [f.name for _, fs in page.accordions for f in fs]
    shown = {name for name, update in zip(names, fields, strict=True) if update["visible"]}
    assert "lora_dropout_p" in shown
    assert "seed" not in shown
    assert [g["open"] for g in groups] == [any(f.name in shown for f in fs) for _, fs in page.accordions]
    everything = page._search("", "sft")[1 + len(page.accordions) :]
    assert {n for n, u in zip(names, everything, strict=True) if u["visible"]} == set(names) & set(TRAIN["sft"].fields)


def test_what_is_estimated_checked_and_previewed(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def look(self: Looker, words: list[str]) -> Look:
        asked.append(words)
        if words[0] == "data":
            place = self.workspace.root / words[words.index("--output") + 1]
            place.mkdir()
            (place / "preview.html").write_text("<script>1</script>")
        return Look(0, json.dumps({"parameters": 5, "trainable": 1, "memory": None, "not_estimated": "x", "seconds_per_step": None, "free": None}), "")  # fmt: skip

    monkeypatch.setattr(Looker, "look", look)
    assert "parameters" in page._estimate_near(*values(page))
    assert "parameters" in page._estimate_near(*values(page, dataset=["a/hub-id"]))
    assert "--dataset" in asked[0]
    assert "--dataset" not in asked[1]
    assert page.words.estimate_ask in page._estimate_near(*values(page, model_type="qwen3-0_6b"))
    assert page.words.checked in page._check(*values(page))
    assert asked[-1][0] == "sft"
    assert asked[-1][-1] == "--dry_run"
    assert "&lt;script&gt;" in page._preview(*values(page))
    assert "outside the workspace" in page._estimate(*values(page, model_type="", model_id_or_path="/etc"))
    assert "outside the workspace" in page._preview(*values(page, dataset=["../x.jsonl"]))
    assert not list(page.studio.workspace.state.glob("preview-*"))


def test_an_upload_is_chosen(page: Any) -> None:
    place = page.studio.workspace.uploads
    place.mkdir(exist_ok=True)
    (place / "a.jsonl").write_text("{}\n")
    update, told = page._take([str(place / "a.jsonl")], ["self-cognition"])
    assert update["value"] == ["self-cognition", "data/a.jsonl"]
    assert "data/a.jsonl" in told
    for name in ("a.py", "b.jsonl", "c.sh"):
        (place / name).write_text("{}\n")
    update, told = page._take([str(place / name) for name in ("a.py", "b.jsonl", "c.sh")], [])
    assert update["value"] == ["data/b.jsonl"]
    assert told.count("no data file") == 2
    assert left(place) == []


def test_what_came_into_the_workspace_later_is_offered(page: Any) -> None:
    (page.studio.workspace.root / "later.jsonl").write_text("{}\n")
    updates = page.offer()
    assert len(updates) == len(page.offered)
    assert "later.jsonl" in updates[0]["choices"]


def test_the_newest_run_is_shown_and_what_was_told_of_it_ends_with_it(served: Any) -> None:
    import gradio as gr

    from swift.studio.runs_page import RunsPage

    with gr.Blocks():
        page = RunsPage(served.studio, ENGLISH)
    run = served.studio.workspace.root / "output" / "mine" / "v0"
    run.mkdir(parents=True)
    try:
        (run / "sft_args.json").write_text('{"model_type": "demo-chat"}')
        (run / HOLDER).write_text(f"{os.getpid()}\n")
        assert wait_for(served, "output/mine/v0")
        *shown, seen = page.refresh(None, [], [])
        assert len(shown) == len(page.outputs)
        assert shown[0]["value"] == "output/mine/v0"
        assert shown[-1] == gr.skip()
        (run / HOLDER).unlink()
        *shown, seen = page.refresh("output/mine/v0", [], seen)
        assert "value" not in shown[0]
        assert shown[-1] == ""
        *shown, seen = page.refresh("output/mine/v0", [], seen)
        assert shown == [gr.skip()] * len(page.outputs)
    finally:
        shutil.rmtree(run.parent)


def wait_for(served: Any, path: str) -> bool:
    """Whether a run is found, once directories are looked for anew."""
    end = time.monotonic() + 30
    while time.monotonic() < end and path not in [run.path for run in served.studio.runs.all()]:
        time.sleep(0.1)
    return path in [run.path for run in served.studio.runs.all()]


def test_nobody_comes_in_from_outside_without_a_password(tmp_path: Path) -> None:
    for said in ({"host": "0.0.0.0"}, {"share": True}, {"host": "::", "share": True}):
        with pytest.raises(SwiftError, match="start processes"):
            read_access(WebUIArguments(**said))  # type: ignore[arg-type]
    (tmp_path / "who").write_text("ann:secret\n")
    assert read_access(WebUIArguments(share=True, auth=str(tmp_path / "who"))) == {"ann": "secret"}
    (tmp_path / "who").write_text("nobody\n")
    with pytest.raises(ConfigError, match="user:password"):
        read_access(WebUIArguments(auth=str(tmp_path / "who")))
    with pytest.raises(SwiftError, match=r"--auth .*nobody does not exist"):
        read_access(WebUIArguments(auth=str(tmp_path / "nobody")))


def test_the_end_of_its_terminal_is_an_orderly_one() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        end_with_its_terminal()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        end_with_its_terminal()
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGHUP)
        assert ended.value.code == 129
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "who").write_text("ann:secret\n")
    served = web_ui_main([], prevent_thread_lock=True, workspace=str(tmp_path), port=0, auth=str(tmp_path / "who"))
    assert served is not None
    try:
        assert answer(f"{served.url}config") == 401
    finally:
        served.close()


def test_the_language_is_what_is_said_or_the_locale_s() -> None:
    assert choose_words("zh", {}) is CHINESE
    assert choose_words(None, {"LANG": "zh_CN.UTF-8"}) is CHINESE
    assert choose_words(None, {"LANG": "fr_FR"}) is ENGLISH

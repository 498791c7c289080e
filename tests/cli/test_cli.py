"""The command itself: what it runs, what it refuses, and the exit code of every end."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from swift import __file__ as package
from swift import cli, errors
from swift._version import __version__
from swift.arguments.fields import options_of

NAMES = "COLUMNS DEBUG RANK LOCAL_RANK WORLD_SIZE NPROC_PER_NODE NNODES NODE_RANK MASTER_ADDR MASTER_PORT SWIFT_WORKERS"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES.split():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the commands were run with; the first item, if an exception is put there, is raised instead."""
    calls: list[Any] = []

    def main_of(name: str):
        def run(args: Any) -> None:
            if calls and isinstance(calls[0], BaseException):
                raise calls[0]
            calls.append((name, args))

        return run

    for module in {command.run.partition(":")[0] for command in cli.COMMANDS.values()}:
        names = [c.run.partition(":")[2] for c in cli.COMMANDS.values() if c.run.startswith(f"{module}:")]
        stub = types.ModuleType(module)
        vars(stub).update({name: main_of(name) for name in names})
        monkeypatch.setitem(sys.modules, module, stub)
    return calls


SFT = "sft --model_id_or_path m --dataset d".split()


def test_commands_run_with_their_arguments(ran: list[Any]) -> None:
    assert cli.main([*SFT, "--lora-rank", "4"]) == 0
    assert cli.main("infer --ckpt_dir c".split()) == 0
    assert cli.main("export --ckpt_dir c --to_peft_format".split()) == 0
    assert [name for name, _ in ran] == ["sft_main", "infer_main", "export_main"]
    assert (ran[0][1].lora_rank, ran[0][1].dataset) == (4, ["d"])
    assert ran[2][1].to_peft_format


@pytest.mark.parametrize("name", ["merge-lora", "merge_lora"])
def test_merge_lora_goes_by_both_names_and_merges(ran: list[Any], name: str) -> None:
    assert cli.main([name, "--ckpt_dir", "c"]) == 0
    assert ran[0][0] == "merge_lora_main"
    assert ran[0][1].merge_lora


def test_version_and_bare_swift(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"swift {__version__}\n"
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: swift COMMAND" in err
    assert cli.main(["help"]) == 0
    assert capsys.readouterr().out == err


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    text = capsys.readouterr().out
    assert re.findall(r"^  ([a-z-]+) {2,}[A-Z]", text, re.M)[: len(cli.COMMANDS)] == list(cli.COMMANDS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("stf", "did you mean `swift sft`?"),
        ("mergelora", "did you mean `swift merge-lora`?"),
        ("xyzzy", f"there are: {', '.join(cli.COMMANDS)}"),
        ("app_ui --port 1", "give --ckpt_dir or --model_id_or_path or --model_type"),
        ("--lora_rank 3", "is not a command"),
        ("sft", "--model_id_or_path is missing"),
        ("sft", "--dataset is missing"),
        ("sft --model_type m", "--dataset is missing"),
        ("sft --dataset d", "give --model_id_or_path or --model_type"),
        ("infer", "give --ckpt_dir or --model_id_or_path or --model_type"),
        ("export --merge_lora", "--ckpt_dir is missing"),
        ("merge-lora", "--ckpt_dir is missing"),
        ("sft --model_id_or_path m --dataset d --lora_rnak 3", "did you mean --lora_rank?"),
        ("infer --ckpt_dir c --lora_rank 3", "--lora_rank is not an option"),
        ("sft --model_id_or_path m --dataset d --sequence_parallel_size 2", "fix: --tensor_parallel_size 2, "),
        ("infer --ckpt_dir c --sequence_parallel_size 2", "--sequence_parallel_size is not an option"),
    ],
)
def test_usage_errors(words: str, says: str, ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 3 * err.count("error[") + 1
    assert ran == []


def in_options(kind: type) -> list[str]:
    """Every option of sft that takes one number or flag."""
    infos = options_of(cli.load(cli.COMMANDS["sft"].arguments)).values()
    return [info.name for info in infos if info.kind is kind and not info.is_list]


@pytest.mark.parametrize("option", [*in_options(int), *in_options(float), *in_options(bool)])
def test_every_number_and_flag_refuses_a_word(option: str, ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SFT, f"--{option}", "word"]) == 2
    assert f"--{option} takes " in capsys.readouterr().err
    assert ran == []


def everything(kind: type = errors.SwiftError) -> list[type[errors.SwiftError]]:
    return [
        c for child in kind.__subclasses__() if child is not errors.SeveralErrors for c in (child, *everything(child))
    ]


@pytest.mark.parametrize("kind", everything())
def test_our_errors_end_with_their_code_and_no_traceback(
    kind: type[errors.SwiftError], ran: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ran.append(kind("DATA-03", "rows.jsonl:4: null", why="because", fix="this"))
    assert cli.main(SFT) == kind.exit_code
    told = "error[DATA-03]: rows.jsonl:4: null\n  why: because\n  fix: this\n  docs: docs/errors.md#data-03\n"
    assert capsys.readouterr().err == told
    assert cli.main([*SFT, "--debug"]) == kind.exit_code
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("  fix: this\n")


def test_several_errors_end_with_the_first_code(ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    ran.append(errors.SeveralErrors([errors.ConfigError("CONFIG-02", "a"), errors.UsageError("USAGE-01", "b")]))
    assert cli.main(SFT) == 78
    assert capsys.readouterr().err.count("error[") == 2


def test_an_unexpected_error_is_a_line_with_a_log(
    ran: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran.append(RuntimeError("a\nb with hf_" + "a" * 30))
    assert cli.main(SFT) == 70
    err = capsys.readouterr().err
    assert err.startswith("error[INTERNAL-01]: RuntimeError: a b with ***\n")
    assert len(err.splitlines()) == 4
    (log,) = tmp_path.glob("swift-error-*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()
    assert "hf_a" not in log.read_text()
    assert cli.main(["--debug", *SFT]) == 70
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert cli.main(SFT) == 70
    assert "nothing more could be written down" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_or_broken_disk_is_74(number: int, ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    ran.append(OSError(number, os.strerror(number), "/out/x"))
    assert cli.main(SFT) == 74
    err = capsys.readouterr().err
    assert os.strerror(number) in err
    assert "/out/x" in err
    assert cli.main([*SFT, "--debug"]) == 74
    ran[0] = FileNotFoundError(errno.ENOENT, "No such file", "x")
    assert cli.main(SFT) == 70


def test_ctrl_c_is_130(ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    ran.append(KeyboardInterrupt())
    assert cli.main(SFT) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_handler_of_sigterm_is_put_back(ran: list[Any]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cli.main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert cli.main(SFT) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_signals_end_the_process_with_their_code(number: int, code: int, tmp_path: Path) -> None:
    stubs = tmp_path / "stubs.py"
    stubs.write_text(
        "import sys, types\nfrom swift import cli\n"
        "def sft_main(args):\n    import time\n    try:\n        sys.stderr.write('here\\n')\n        sys.stderr.flush()\n"
        "        time.sleep(60)\n    finally:\n        sys.stderr.write('tidied\\n')\n"
        "stub = types.ModuleType('swift.commands.sft')\nstub.sft_main = sft_main\n"
        "sys.modules['swift.commands.sft'] = stub\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen([sys.executable, str(stubs), *SFT], stderr=subprocess.PIPE, text=True, env=_env())
    assert process.stderr
    assert process.stderr.readline() == "here\n"
    start = time.monotonic()
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait() == code
    assert time.monotonic() - start < 5
    assert "tidied" in rest
    assert "Traceback" not in rest


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(package).parents[1])}


def test_the_module_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "swift.cli", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"swift {__version__}\n"


def test_workers_leave_their_end_to_the_launcher(
    ran: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWIFT_WORKERS", str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "3")
    followed: list[bool] = []
    monkeypatch.setattr("swift.launch.follow_parent", lambda: followed.append(True))
    assert cli.main(SFT) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"1.done", "1.stack"}
    assert followed == [True]
    ran.insert(0, errors.DataError("DATA-01", "bad"))
    assert cli.main(SFT) == 65
    assert '"rank": 3' in (tmp_path / "1.failed").read_text()
    assert capsys.readouterr().err == ""


def test_a_worker_ends_without_teardown_and_loses_no_word() -> None:
    code = (
        "import atexit, threading\nfrom swift import cli\natexit.register(print, 'left in order')\n"
        "threading.Thread(target=threading.Event().wait).start()\nprint('said')\ncli._end(65)\n"
    )
    worker = [sys.executable, "-c", code]
    ended = subprocess.run(worker, capture_output=True, text=True, env={**_env(), "LOCAL_RANK": "0"}, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (65, "said\nleft in order\n", "")
    with pytest.raises(subprocess.TimeoutExpired):  # the teardown waits for that thread for ever
        subprocess.run(worker, capture_output=True, env=_env(), timeout=5)


def test_the_environment_starts_workers_for_sft_alone(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    agent = types.ModuleType("swift.agent")
    vars(agent)["run_workers"] = lambda plan, command: started.append((plan.processes, command)) or 5
    monkeypatch.setitem(sys.modules, "swift.agent", agent)
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert cli.main(["infer", "--ckpt_dir", "c"]) == 0
    assert cli.main([*SFT, "--debug"]) == 5
    assert started == [(2, ["-m", "swift.cli", *SFT, "--debug"])]
    assert cli.main([*SFT, "--lora_rnak", "3"]) == 2
    monkeypatch.setenv("NPROC_PER_NODE", "two")
    assert cli.main(SFT) == 2
    assert len(started) == 1

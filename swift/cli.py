"""The command `swift`: finds the command, reads its options, runs it, and turns every end into an exit code.

Nothing heavy is imported here; a command's module is loaded by name when it runs.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NoReturn, TextIO

from swift import dist, launch, watch
from swift._version import __version__
from swift.arguments.fields import options_of
from swift.arguments.help import command_help, first_line, overview
from swift.errors import DiskError, InternalError, SwiftError, UnknownNameError, UsageError, raise_all
from swift.redact import redact_text

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's: large tensors lie on large pages, between which few gaps are left
LONGEST_MESSAGE = 400


@dataclass(frozen=True)
class Command:
    """A row of `COMMANDS`.

    Args:
        arguments: address of its arguments class, "module:name".
        run: address of the function that is given an instance of it.
        about: what it does; None takes the first line of the arguments class.
        needs: groups of options, of each of which one must be said.
        distributed: whether it runs on several processes when the environment asks for it.
        defaults: values that replace the options' own.
        dry_run: address of the function that is given options, words and number of processes when `--dry_run` is said.
        word: the option whose value may stand right after the command's name.
        words: the option whose values, one or several as it is a list or not, may stand after that.
        rest: the option whose values are all words after `--`, whatever they look like.
    """

    arguments: str
    run: str
    about: str | None = None
    needs: tuple[tuple[str, ...], ...] = ()
    distributed: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    dry_run: str | None = None
    word: str | None = None
    words: str | None = None
    rest: str | None = None


ABOUT = {"gkd": "Learn from a teacher with", "rm": "Learn to judge answers with"}
ABOUT |= dict.fromkeys(("grpo", "rloo"), "Learn from rewards with")


def _preference(method: str | None) -> Command:
    """`swift rlhf`, or the short name of a method of its."""
    return Command(
        "swift.arguments.rlhf:RLHFArguments",
        "swift.commands.rlhf:rlhf_main",
        about=f"{ABOUT.get(method, 'Train on preferences with')} {method}: `rlhf --rlhf_type {method}`."
        if method
        else None,
        needs=(("model_id_or_path", "model_type"), ("dataset",)),
        distributed=True,
        defaults={"rlhf_type": method} if method else {},
        dry_run="swift.commands.dry_run:dry_run",
    )


COMMANDS = {
    "sft": Command(
        "swift.arguments.sft:SftArguments",
        "swift.commands.sft:sft_main",
        needs=(("model_id_or_path", "model_type"), ("dataset",)),
        distributed=True,
        dry_run="swift.commands.dry_run:dry_run",
    ),
    "pt": Command(
        "swift.arguments.pt:PtArguments",
        "swift.commands.pt:pt_main",
        needs=(("model_id_or_path", "model_type"), ("dataset",)),
        distributed=True,
        dry_run="swift.commands.dry_run:dry_run",
    ),
    "rlhf": _preference(None),
    **{name: _preference(name) for name in ("dpo", "orpo", "simpo", "cpo", "kto", "rm", "gkd", "grpo", "rloo")},
    "infer": Command(
        "swift.arguments.infer:InferArguments",
        "swift.commands.infer:infer_main",
        needs=(("ckpt_dir", "model_id_or_path", "model_type"),),
    ),
    "deploy": Command(
        "swift.arguments.deploy:DeployArguments",
        "swift.commands.deploy:deploy_main",
        needs=(("ckpt_dir", "model_id_or_path", "model_type"),),
    ),
    "eval": Command(
        "swift.arguments.eval:EvalArguments",
        "swift.commands.eval:eval_main",
        needs=(
            ("ckpt_dir", "model_id_or_path", "model_type", "eval_url"),
            ("eval_dataset", "dataset", "val_dataset", "custom_eval_config", "load_dataset_config"),
        ),
    ),
    "app-ui": Command(
        "swift.arguments.app_ui:AppUIArguments",
        "swift.commands.app_ui:app_ui_main",
        needs=(("ckpt_dir", "model_id_or_path", "model_type"),),
    ),
    "web-ui": Command("swift.arguments.web_ui:WebUIArguments", "swift.commands.web_ui:web_ui_main"),
    "export": Command(
        "swift.arguments.export:ExportArguments",
        "swift.commands.export:export_main",
        needs=(("ckpt_dir", "adapters", "model_id_or_path", "model_type", "from_sharded"),),
    ),
    "merge-lora": Command(
        "swift.arguments.export:ExportArguments",
        "swift.commands.export:merge_lora_main",
        about="Merge a checkpoint's LoRA into its model anew: `export --merge_lora --replace_if_exists`.",
        needs=(("ckpt_dir",),),
        defaults={"merge_lora": True},
    ),
    "push": Command(
        "swift.arguments.hub:PushArguments",
        "swift.commands.push:push_main",
        needs=(("directory",),),
        word="directory",
    ),
    "pull": Command(
        "swift.arguments.hub:PullArguments",
        "swift.commands.pull:pull_main",
        needs=(("hub_model_id",),),
        word="hub_model_id",
    ),
    "rerun": Command(
        "swift.arguments.verbs:RerunArguments",
        "swift.commands.rerun:rerun_main",
        needs=(("receipt",),),
        distributed=True,
        word="receipt",
    ),
    "template": Command(
        "swift.arguments.template:TemplateArguments",
        "swift.commands.template:template_main",
        needs=(("action",),),
        word="action",
        words="target",
    ),
    "data": Command(
        "swift.arguments.data_verbs:DataArguments",
        "swift.commands.data:data_main",
        needs=(("action",), ("dataset",), ("model_id_or_path", "model_type")),
        word="action",
        words="dataset",
    ),
    "models": Command("swift.arguments.verbs:ModelsArguments", "swift.commands.models:models_main", word="search"),
    "datasets": Command(
        "swift.arguments.verbs:DatasetsArguments", "swift.commands.datasets:datasets_main", word="search"
    ),
    "estimate": Command(
        "swift.arguments.estimate:EstimateArguments",
        "swift.commands.estimate:estimate_main",
        needs=(("model_id_or_path", "model_type"),),
    ),
    "launch": Command(
        "swift.arguments.launch:LaunchArguments",
        "swift.emit:launch_main",
        needs=(("emit",), ("command",)),
        rest="command",
    ),
    "doctor": Command("swift.arguments.verbs:DoctorArguments", "swift.commands.doctor:doctor_main"),
    "schema": Command(
        "swift.arguments.verbs:SchemaArguments",
        "swift.commands.schema:schema_main",
        needs=(("command",),),
        word="command",
    ),
    "completion": Command(
        "swift.arguments.verbs:CompletionArguments",
        "swift.completion:completion_main",
        needs=(("shell",),),
        word="shell",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (None: this process's); return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    previous = _end_on_signals()
    try:
        code = dispatch([word for word in words if word != "--debug"], debug)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except SystemExit as end:
        if end.code == TERMINATED and launch.is_worker(os.environ):
            return _fail("ended by a signal", TERMINATED)
        raise
    except Exception as error:  # the one place where an unexpected error ends
        known = error if isinstance(error, SwiftError) else _from_system(error)
        message = _with_traceback(error) if debug else with_docs(known) if known else _internal(error)
        return _fail(message, known.exit_code if known else InternalError.exit_code)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def dispatch(words: list[str], debug: bool = False) -> int:
    """Do what the words of a command line, without `--debug`, ask for.

    Raises:
        SwiftError: whatever went wrong that a user can do something about.
    """
    if not words:
        _say(_overview(), sys.stderr)
        return UsageError.exit_code
    if words[0] in ("--help", "-h", "help"):
        _say(_overview())
        return 0
    if words[0] in ("--version", "-V"):
        _say(f"swift {__version__}")
        return 0
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        raise _unknown_command(words[0])
    command, argv = COMMANDS[name], words[1:]
    defaults = dict(command.defaults)
    if command.rest and "--" in argv:
        first = argv.index("--")
        defaults[command.rest], argv = argv[first + 1 :], argv[:first]
    cls = load(command.arguments)
    argv = _with_names(command, argv)
    if "--help" in argv or "-h" in argv:
        about = command.about or first_line(cls)
        _say(command_help(name, cls, about, command.word, command.words, command.rest))
        return 0
    plan = dist.plan_launch(os.environ) if command.distributed else None
    quiet = plan is not None or not dist.is_main()
    args = load("swift.arguments.reading:parse")(cls, argv, quiet=quiet, **defaults)
    check_needs(command, args)
    if command.dry_run and args.dry_run:
        if plan is not None:
            load("swift.agent:check_machine")(plan)
        load(command.dry_run)(args, argv, plan.processes * plan.nodes if plan else None)
        return 0
    if plan is not None:
        flags = ["--debug"] if debug else []
        plan = launch.with_options(plan, args)
        if "hub_token" in options_of(cls):
            argv = load("swift.publish.token:into_environment")(args, argv)
        return load("swift.agent:run_workers")(plan, ["-m", "swift.cli", name, *argv, *flags])
    return run(command, args)


def run(command: Command, args: Any) -> int:
    """Run the command in this process, which may be one of several workers."""
    os.environ.setdefault(HUGE_PAGES, "1")  # read when torch makes its first tensor
    if launch.is_worker(os.environ):
        launch.follow_parent()
        watch.write_stacks_on_signal(os.environ)
    load(command.run)(args)
    if launch.is_worker(os.environ):
        launch.record_success(os.environ)
    return 0


def check_needs(command: Command, args: Any) -> None:
    """Refuse, before anything heavy is loaded, a command that lacks what it cannot do without.

    Raises:
        UsageError: one for every option that is missing.
    """

    def said_as(name: str) -> str:
        choices = options_of(type(args))[name].choices if name == command.word else None
        return f"one of: {', '.join(choices)}" if choices else f"--{name}"

    raise_all(
        [
            UsageError("USAGE-03", f"--{names[0]} is missing", fix="give " + " or ".join(map(said_as, names)))
            for names in command.needs
            if not any(getattr(args, name) for name in names)
        ]
    )


def _with_names(command: Command, argv: list[str]) -> list[str]:
    """The words with the names of the options that the first ones are values of."""
    first = next((k for k, word in enumerate(argv) if word.startswith("-")), len(argv))
    if not command.word or not first:
        return argv
    rest = [f"--{command.words}", *argv[1:first]] if command.words and first > 1 else argv[1:first]
    return [f"--{command.word}", argv[0], *rest, *argv[first:]]


def load(address: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


def _overview() -> str:
    return overview({name: c.about or first_line(load(c.arguments)) for name, c in COMMANDS.items()}, __version__)


def _unknown_command(word: str) -> UnknownNameError:
    gone = load("swift.arguments.rlhf:GONE").get(word.lower())
    if gone is not None:
        return UnknownNameError("USAGE-01", f"there is no `swift {word}`", why=gone[0], fix=gone[1])
    near = difflib.get_close_matches(word.replace("_", "-"), COMMANDS, 1)
    fix = f"did you mean `swift {near[0]}`?" if near else f"there are: {', '.join(COMMANDS)}"
    return UnknownNameError("USAGE-01", f"{word!r} is not a command of swift", fix=fix)


def _say(text: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{text}\n")


def _end_on_signals() -> dict[int, Any]:
    """Make SIGTERM and SIGUSR1 an orderly exit, where nobody else handles them; return the handlers to put back.

    A worker keeps the default, which also ends it while it waits for another inside a collective call.
    """
    if threading.current_thread() is not threading.main_thread() or launch.is_worker(os.environ):
        return {}

    def end(number: int, frame: object) -> None:
        _say(f"ended by {signal.Signals(number).name}", sys.stderr)
        raise SystemExit(TERMINATED)

    free = [n for n in (signal.SIGTERM, signal.SIGUSR1) if signal.getsignal(n) is signal.SIG_DFL]
    return {number: signal.signal(number, end) for number in free}


def _fail(message: str, code: int) -> int:
    """Say on stderr why it ends; a worker leaves that to the process that started it."""
    message = redact_text(message)
    if launch.is_worker(os.environ):
        launch.record_failure(os.environ, message, code)
    else:
        _say(message, sys.stderr)
    return code


def with_docs(error: SwiftError) -> str:
    """The message, and where its code is explained."""
    return f"{error}\n  docs: docs/errors.md#{error.code.lower()}"


def _with_traceback(error: BaseException) -> str:
    return f"{''.join(traceback.format_exception(error))}{error}"


def _from_system(error: Exception) -> SwiftError | None:
    """What the disk says, as an error with its own exit code."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return None
    where = f" ({error.filename})" if error.filename else ""
    return DiskError("DISK-01", f"{error.strerror}{where}", fix="free some space or write elsewhere")


def _internal(error: Exception) -> str:
    """One line for an error nobody expected, and the file that has the rest."""
    said = " ".join(str(error).split())
    shown = f"{type(error).__name__}: {said}"[:LONGEST_MESSAGE].removesuffix(": ")
    try:
        handle, path = tempfile.mkstemp(prefix="swift-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as log:
            log.write(redact_text("".join(traceback.format_exception(error))))
        where = f"all of it is in {path}"
    except OSError:
        where = "nothing more could be written down"
    return with_docs(InternalError("INTERNAL-01", shown, why=f"unexpected; {where}", fix="run it again with --debug"))


def _end(code: int) -> NoReturn:
    """End this process, one of several without the interpreter's teardown: in it gloo's threads may abort or hang."""
    if "LOCAL_RANK" in os.environ:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _end(main())

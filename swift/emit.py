"""`swift launch --emit slurm|kubeflow|skypilot|ray -- sft ...`: checks the command, and writes its job file."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from swift import storage
from swift.arguments.engines import BUNDLED, bundled_name
from swift.arguments.launch import LaunchArguments
from swift.arguments.reading import parse
from swift.arguments.sft import SftArguments
from swift.cli import COMMANDS, check_needs, load
from swift.commands.jobs import FORMATS, Job
from swift.decide import engine_contradictions
from swift.dist import Hardware
from swift.errors import ConfigError, NotFoundError, OutputError, SwiftError, UsageError, raise_all
from swift.log import get_logger
from swift.parallel import degrees

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
WORD = re.compile(r"[\w.:/@+-]+")
TOKENS = ("--hub_token", "--hub-token", "--push_to_hub_token", "--push-to-hub-token")
SUBMIT = {"slurm": "sbatch {}", "kubeflow": "kubectl apply -f {}", "skypilot": "sky launch {}", "ray": "python {}"}
logger = get_logger()


def launch_main(args: LaunchArguments) -> None:
    """Write the job file that is asked for.

    Raises:
        UsageError: the command is none of ours that runs on many machines, or its options are wrong.
        ConfigError: the job cannot be said to this scheduler.
    """
    assert args.emit is not None
    text = FORMATS[args.emit](job_of(args))
    if args.output is None:
        sys.stdout.write(text)
        return
    path = Path(args.output).expanduser()
    try:
        storage.write_text(path, text)
    except OSError as error:
        reason = "it is a directory" if path.is_dir() else error.strerror or error
        raise OutputError("OUTPUT-01", f"--output {args.output}: {reason}", fix="name another") from None
    logger.info(SUBMIT[args.emit].format(shlex.quote(str(path))))


def job_of(args: LaunchArguments) -> Job:
    """The job that the options describe."""
    command = tuple(args.command[1:] if args.command[:1] == ["swift"] else args.command)
    processes = args.processes or args.gpus or 1
    raise_all([*_mistakes(args), *_of_command(command, processes * args.nodes)])
    gpus = processes if args.gpus is None else args.gpus
    return Job(
        name=args.name,
        command=("swift", *command),
        nodes=args.nodes,
        processes=processes,
        gpus=gpus,
        port=args.port,
        gpu_type=args.gpu_type,
        cpus=args.cpus,
        memory=args.memory,
        time=args.time,
        partition=args.partition,
        image=args.image,
        setup=tuple(args.setup),
    )


def _mistakes(args: LaunchArguments) -> list[SwiftError]:
    """What no scheduler, or not this one, would take."""
    found: list[SwiftError] = []
    if not NAME.fullmatch(args.name):
        fix = "small letters, digits and `-`, at most 63, as Kubernetes takes them"
        found.append(UsageError("USAGE-02", f"--name {args.name!r} is no name of a job", fix=fix))
    if args.time is not None and not TIME.fullmatch(args.time):
        found.append(UsageError("USAGE-02", f"--time {args.time!r} is no time", fix="--time 12:00:00, or 1-12:00:00"))
    for name, value in (("partition", args.partition), ("gpu_type", args.gpu_type), ("image", args.image)):
        if value is not None and not WORD.fullmatch(value):
            found.append(UsageError("USAGE-02", f"--{name} {value!r} is no name", fix="letters, digits and .:/@+-_"))
    if args.emit == "kubeflow" and args.image is None:
        found.append(UsageError("USAGE-03", "--image is missing", fix="--image <registry>/<image>:<tag>"))
    if args.gpus and args.processes and args.processes > args.gpus:
        what = f"--processes {args.processes} share --gpus {args.gpus}"
        found.append(ConfigError("CONFIG-02", what, fix="one GPU for each process, or --gpus 0"))
    for name in {"slurm": (), "ray": ("time", "partition", "image", "setup")}.get(
        str(args.emit), ("time", "partition")
    ):
        if getattr(args, name):
            found.append(ConfigError("CONFIG-02", f"--{name} cannot be said to {args.emit}", fix="leave it out"))
    return found


def _of_command(command: tuple[str, ...], processes: int) -> list[SwiftError]:
    """What is wrong with the command itself, which would else come to light when the job's turn has come."""
    able = [name for name, row in COMMANDS.items() if row.distributed]
    if not command or command[0] not in able:
        said = shlex.join(command[:1]) or "nothing"
        what = f"after `--` stands {said}, which is no command that runs on many machines"
        return [UsageError("USAGE-01", what, fix=f"one of: {', '.join(able)}")]
    if any(word.startswith(TOKENS) for word in command):
        what = "the token of --hub_token would be in the job's file"
        return [
            UsageError("USAGE-02", what, fix="leave it out, and let the scheduler set HF_TOKEN or MODELSCOPE_API_TOKEN")
        ]
    row = COMMANDS[command[0]]
    try:
        args = parse(load(row.arguments), list(command[1:]), quiet=True, **row.defaults)
        check_needs(row, args)
    except SwiftError as error:
        return [error]
    return _of_engines(args, processes) if isinstance(args, SftArguments) else []


def _of_engines(args: SftArguments, processes: int) -> list[SwiftError]:
    """What so many processes cannot share, as far as the options tell: the model may not be here."""
    hardware = Hardware(world_size=processes)
    found = [*engine_contradictions(args, hardware), *degrees.contradictions(args, hardware, {})]
    said = args.deepspeed or ""
    if re.fullmatch(r"[\w-]+", said) and not bundled_name(said):
        fix = f"one of {', '.join(BUNDLED)}, or a JSON file"
        found.append(NotFoundError("FOUND-01", f"--deepspeed {said}: there is none of that name", fix=fix))
    return found

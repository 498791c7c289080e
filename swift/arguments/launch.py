"""Options of `swift launch`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

SCHEDULERS = ("slurm", "kubeflow", "skypilot", "ray")


@dataclass(kw_only=True)
class LaunchArguments:
    """Write the job file with which a scheduler starts a command on many machines; the command comes after `--`."""

    emit: str | None = option(
        None,
        group="Job",
        choices=SCHEDULERS,
        help="For which scheduler: a script for sbatch, a PyTorchJob, a task of SkyPilot, or a program that Ray runs.",
        none="it has to be said",
    )
    command: list[str] = option(
        [],
        group="Job",
        help="What every machine runs: all words after `--`, such as `-- sft --config run.yaml`.",
    )
    nodes: int = option(1, group="Job", minimum=1, maximum=65535, help="Machines.")
    processes: int | None = option(
        None, group="Job", minimum=1, maximum=1024, help="Processes on each.", none="one for each GPU, or 1"
    )
    gpus: int | None = option(None, group="Job", minimum=0, help="GPUs of each machine.", none="--processes, or 1")
    gpu_type: str | None = option(
        None, group="Job", help="Their kind, such as A100.", none="any; SkyPilot is asked for A100"
    )
    cpus: int | None = option(None, group="Job", minimum=1, help="CPU cores of each machine.", none="the scheduler's")
    memory: int | None = option(
        None, group="Job", minimum=1, unit="GB", help="Memory of each machine.", none="the scheduler's"
    )
    name: str = option("swift", group="Job", help="The job's name.")
    port: int = option(29500, group="Job", minimum=1024, maximum=65535, help="Where the machines meet: MASTER_PORT.")
    time: str | None = option(
        None, group="Job", help="Time limit as Slurm writes it, such as 1-12:00:00.", none="the partition's"
    )
    partition: str | None = option(None, group="Job", help="Slurm's partition.", none="its default")
    image: str | None = option(
        None, group="Job", help="Container image; Kubeflow needs one.", none="the machine itself"
    )
    setup: list[str] = option(
        [],
        group="Job",
        help='Lines of shell that each machine runs first, such as ". .venv/bin/activate"; not with ray.',
    )
    output: str | None = option(None, group="Output", help="The file to write.", none="standard output")

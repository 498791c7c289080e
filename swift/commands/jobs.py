"""Job files: the text with which a scheduler starts a command on many machines.

Each sets NNODES, NODE_RANK, NPROC_PER_NODE, MASTER_ADDR and MASTER_PORT, whatever the scheduler calls them, and runs
the command's words as they are. The same job gives the same text.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

SAVE_SECONDS = 300  # before the time limit Slurm says so, and the run saves


@dataclass(frozen=True)
class Job:
    """What a job file says; `processes`, `gpus`, `cpus` and `memory` (GB) are those of one machine, None is unsaid."""

    name: str
    command: tuple[str, ...]
    nodes: int
    processes: int
    gpus: int
    port: int
    gpu_type: str | None = None
    cpus: int | None = None
    memory: int | None = None
    time: str | None = None
    partition: str | None = None
    image: str | None = None
    setup: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, str]:
        """The variables that are the same on every machine."""
        return {"NNODES": str(self.nodes), "NPROC_PER_NODE": str(self.processes), "MASTER_PORT": str(self.port)}

    def script(self, *lines: str) -> str:
        """The command after its set-up and further lines, for bash."""
        return "\n".join(["set -euo pipefail", *self.setup, *lines, f"exec {shlex.join(self.command)}"]) + "\n"


def slurm(job: Job) -> str:
    """A script for `sbatch`: one task on every machine; Slurm's warning before the time limit makes the run save."""
    gpus = f"{job.gpu_type}:{job.gpus}" if job.gpu_type else str(job.gpus)
    said = {
        "job-name": job.name,
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        "gpus-per-node": gpus if job.gpus else None,
        "mem": f"{job.memory}G" if job.memory else None,
        "time": job.time,
        "partition": job.partition,
        "signal": f"USR1@{SAVE_SECONDS}",
        "output": "%x-%j.out",
    }
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{name}={value}" for name, value in said.items() if value is not None]
    lines += ["set -euo pipefail"]
    lines += [f"export {name}={value}" for name, value in job.settings.items()]
    lines += ['MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)', "export MASTER_ADDR"]
    of_step = {"cpus-per-task": job.cpus, "container-image": job.image}
    options = [f"--{name}={value}" for name, value in of_step.items() if value is not None]
    script = shlex.quote(job.script("export NODE_RANK=$SLURM_NODEID"))
    lines += [" ".join(["srun", "--kill-on-bad-exit=1", *options, "bash", "-c", script])]
    return "\n".join(lines) + "\n"


def kubeflow(job: Job) -> str:
    """A PyTorchJob of Kubeflow's training operator, which names the master and numbers the machines."""
    limits = {"nvidia.com/gpu": str(job.gpus)} if job.gpus else {}
    limits |= {"cpu": str(job.cpus)} if job.cpus else {}
    limits |= {"memory": f"{job.memory}G"} if job.memory else {}
    script = job.script("export NODE_RANK=$RANK", "unset RANK WORLD_SIZE")
    container = {
        "name": "pytorch",  # the operator looks for this name
        "image": job.image,
        "command": ["bash", "-c", script],
        "env": [{"name": name, "value": value} for name, value in job.settings.items() if name != "MASTER_PORT"],
        "ports": [{"name": "pytorchjob-port", "containerPort": job.port}],
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        **({"resources": {"limits": limits}} if limits else {}),
    }
    pod: dict[str, Any] = {
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        **({"nodeSelector": {"nvidia.com/gpu.product": job.gpu_type}} if job.gpu_type else {}),
    }
    roles = {"Master": 1, **({"Worker": job.nodes - 1} if job.nodes > 1 else {})}
    replicas = {
        role: {"replicas": count, "restartPolicy": "OnFailure", "template": {"spec": pod}}
        for role, count in roles.items()
    }
    return _yaml(
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": job.name},
            "spec": {"runPolicy": {"cleanPodPolicy": "None"}, "pytorchReplicaSpecs": replicas},
        }
    )


def skypilot(job: Job) -> str:
    """A task of SkyPilot."""
    resources = {
        "accelerators": f"{job.gpu_type or 'A100'}:{job.gpus}" if job.gpus else None,
        "cpus": f"{job.cpus}+" if job.cpus else None,
        "memory": f"{job.memory}+" if job.memory else None,
        "image_id": f"docker:{job.image}" if job.image else None,
    }
    lines = [
        f"export NNODES=$SKYPILOT_NUM_NODES NODE_RANK=$SKYPILOT_NODE_RANK NPROC_PER_NODE={job.processes}",
        f'export MASTER_ADDR=$(head -n 1 <<< "$SKYPILOT_NODE_IPS") MASTER_PORT={job.port}',
    ]
    said = {name: value for name, value in resources.items() if value is not None}
    task = {"name": job.name, **({"resources": said} if said else {}), "num_nodes": job.nodes}
    return _yaml({**task, "run": job.script(*lines)})


RAY = '''\
"""Starts {name} on {nodes} machines of a Ray cluster: `ray job submit -- python <this file>`."""

import os
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

COMMAND = {command!r}
SETTINGS = {settings!r}
EACH = {each!r}  # of one machine


@ray.remote(num_cpus=EACH["CPU"], num_gpus=EACH.get("GPU", 0))
class Node:
    def address(self):
        return ray.util.get_node_ip_address()

    def run(self, rank, address):
        own = {{**SETTINGS, "NODE_RANK": str(rank), "MASTER_ADDR": address}}
        return subprocess.run(COMMAND, env={{**os.environ, **own}}).returncode


def main():
    ray.init()
    group = placement_group([EACH] * {nodes}, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank) for rank in range({nodes})]
    nodes = [Node.options(scheduling_strategy=place).remote() for place in places]
    address = ray.get(nodes[0].address.remote())
    codes = ray.get([node.run.remote(rank, address) for rank, node in enumerate(nodes)])
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
'''


def ray(job: Job) -> str:
    """A Python program for a Ray cluster: one actor on every machine runs the command."""
    each: dict[str, float] = {"CPU": job.cpus or job.processes}
    each |= {"GPU": job.gpus} if job.gpus else {}
    each |= {"memory": job.memory * 10**9} if job.memory else {}
    each |= {f"accelerator_type:{job.gpu_type}": 0.001} if job.gpu_type else {}
    return RAY.format(name=job.name, nodes=job.nodes, command=list(job.command), settings=job.settings, each=each)


FORMATS: dict[str, Callable[[Job], str]] = {"slurm": slurm, "kubeflow": kubeflow, "skypilot": skypilot, "ray": ray}


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such, and nothing as a reference to what stands above."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)

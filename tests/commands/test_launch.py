"""A job file sets the five variables and runs the words as they were typed: each is run, with a scheduler that is not there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from swift.arguments.launch import SCHEDULERS, LaunchArguments
from swift.cli import main
from swift.commands.jobs import FORMATS
from swift.emit import job_of
from swift.errors import SwiftError

WORDS = [
    "sft",
    "--model_type",
    "demo-chat",
    "--dataset",
    "a b.jsonl",
    "--system",
    'it\'s $HOME `id` "q"\n\\ 你 # %j {x}',
]
VARIABLES = ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT")
TELL = f"""#!{sys.executable}
import json, os, sys
told = {{name: os.environ[name] for name in {VARIABLES!r}}}
print(json.dumps([told, sys.argv[1:], "RANK" in os.environ]))
"""
RAY = {
    "ray/__init__.py": """
class Handle:
    def __init__(self, it): self.it = it
    def __getattr__(self, name): return type("Call", (), {"remote": lambda _, *said: getattr(self.it, name)(*said)})()
def remote(**options):
    def wrap(cls):
        cls.options = staticmethod(lambda **more: type("Made", (), {"remote": lambda _: Handle(cls())})())
        return cls
    return wrap
def init(): pass
def get(value): return value
""",
    "ray/util/__init__.py": "def get_node_ip_address(): return '10.0.0.1'\n",
    "ray/util/placement_group.py": "def placement_group(b, strategy): return type('G', (), {'ready': lambda s: None})()\n",
    "ray/util/scheduling_strategies.py": "def PlacementGroupSchedulingStrategy(*a, **k): pass\n",
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `swift` that says what it was given, and what schedulers have on their machines."""
    directory = tmp_path_factory.mktemp("jobs")
    write(directory / "bin" / "swift", TELL)
    write(directory / "bin" / "scontrol", "#!/bin/bash\necho 10.0.0.1\necho 10.0.0.2\n")
    srun = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nfor id in 0 1; do SLURM_NODEID=$id "$@"; done\n'
    write(directory / "bin" / "srun", srun)
    for name, text in RAY.items():
        write(directory / name, text)
    return directory


def emitted(kind: str, *more: str, capsys: pytest.CaptureFixture[str]) -> str:
    options = ["--nodes", "2", "--processes", "4", "--port", "1234", *more]
    assert main(["launch", "--emit", kind, *options, "--", *WORDS]) == 0
    return capsys.readouterr().out


def told(place: Path, *command: str, **env: str) -> list[list[Any]]:
    clean = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "RANK", "WORLD_SIZE")}
    clean |= {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(place), **env}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_job(kind: str, text: str, place: Path) -> list[list[Any]]:
    """What `swift` is given on each of the machines."""
    if kind == "slurm":
        file = str(write(place / "job.sbatch", text))
        assert subprocess.run(["bash", "-n", file]).returncode == 0
        return told(place, "bash", file, SLURM_JOB_NODELIST="n[1-2]")
    if kind == "ray":
        return told(place, sys.executable, str(write(place / "job.py", text)))
    job = yaml.safe_load(text)
    if kind == "skypilot":
        env = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
        return [told(place, "bash", "-c", job["run"], SKYPILOT_NODE_RANK=rank, **env)[0] for rank in "01"]
    found = []
    for rank, role in enumerate(("Master", "Worker")):
        (container,) = job["spec"]["pytorchReplicaSpecs"][role]["template"]["spec"]["containers"]
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        (port,) = container["ports"]
        env |= {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": str(port["containerPort"]),
        }
        found += told(place, *container["command"], **env)
    return found


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_job_sets_the_variables_and_runs_the_words(
    kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--image", "here/swift:1"] if kind == "kubeflow" else []
    text = emitted(kind, *more, capsys=capsys)
    assert text == emitted(kind, *more, capsys=capsys)
    common = {"NNODES": "2", "NPROC_PER_NODE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert run_job(kind, text, place) == [[{**common, "NODE_RANK": rank}, WORDS, False] for rank in "01"]


RUN = ["swift", "sft", "--model_type", "demo-chat", "--dataset", "a.jsonl"]


def said(**options: Any) -> LaunchArguments:
    return LaunchArguments(**{"emit": "slurm", "command": RUN, **options})


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({"gpus": 8}, ["#SBATCH --gpus-per-node=8", "export NPROC_PER_NODE=8"]),
        ({"processes": 2, "gpus": 0}, ["export NPROC_PER_NODE=2"]),
        ({"gpus": 8, "gpu_type": "H100"}, ["#SBATCH --gpus-per-node=H100:8"]),
        ({"time": "1-00:00:00", "partition": "long"}, ["#SBATCH --time=1-00:00:00", "#SBATCH --partition=long"]),
        ({"memory": 500, "name": "mine"}, ["#SBATCH --mem=500G", "#SBATCH --job-name=mine"]),
    ],
)
def test_what_slurm_is_told(options: dict[str, Any], lines: list[str]) -> None:
    text = FORMATS["slurm"](job_of(said(**options)))
    assert set(lines) <= set(text.splitlines())
    assert ("gpus-per-node" in text) == (options.get("gpus") != 0)


def test_what_others_are_told() -> None:
    options = {"gpus": 8, "gpu_type": "H100", "cpus": 32, "memory": 500, "image": "a/b:c"}
    srun = FORMATS["slurm"](job_of(said(**options, setup=[". env.sh"])))
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=32 --container-image=a/b:c bash -c" in srun
    assert "\n. env.sh\n" in srun
    task = yaml.safe_load(FORMATS["skypilot"](job_of(said(**options, emit="skypilot"))))
    assert task["resources"] == {"accelerators": "H100:8", "cpus": "32+", "memory": "500+", "image_id": "docker:a/b:c"}
    pod = yaml.safe_load(FORMATS["kubeflow"](job_of(said(**options, emit="kubeflow"))))
    (role,) = pod["spec"]["pytorchReplicaSpecs"].values()
    spec = role["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8", "cpu": "32", "memory": "500G"}
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "H100"}
    program = FORMATS["ray"](job_of(said(gpus=8, cpus=32, memory=500, emit="ray")))
    assert "EACH = {'CPU': 32, 'GPU': 8, 'memory': 500000000000}" in program
    compile(program, "job.py", "exec")


FULL = {"nodes": 3, "gpus": 8, "gpu_type": "H100", "cpus": 32, "memory": 500, "image": "a/b:c", "setup": [". env.sh"]}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, FULL])
def test_skypilot_itself_takes_its_task(options: dict[str, Any]) -> None:
    sky = pytest.importorskip("sky")
    text = FORMATS["skypilot"](job_of(said(**options, emit="skypilot")))
    task = sky.Task.from_yaml_config(yaml.safe_load(text))
    (asked,) = task.resources
    assert task.num_nodes == options.get("nodes", 1)
    assert asked.accelerators == {options.get("gpu_type", "A100"): options.get("gpus", 1)}
    assert task.run.startswith("set -euo pipefail")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"image": "a/b:c"}, FULL])
def test_the_models_of_kubeflow_know_every_word_of_its_job(options: dict[str, Any]) -> None:
    models = pytest.importorskip("kubeflow.training.models")
    kubernetes = pytest.importorskip("kubernetes.client")
    job = yaml.safe_load(FORMATS["kubeflow"](job_of(said(**options, emit="kubeflow"))))
    vars(kubernetes.models).update({name: known for name, known in vars(models).items() if name.startswith("Kubeflow")})
    api = kubernetes.ApiClient()
    answer = type("Answer", (), {"data": json.dumps(job)})()
    read = api.deserialize(answer, "KubeflowOrgV1PyTorchJob")
    assert api.sanitize_for_serialization(read) == job  # what it does not know it would leave out


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"command": []}, 2, "after `--` stands nothing"),
        ({"command": ["infer"]}, 2, "one of: sft"),
        ({"command": ["sft", "--dataset", "x"]}, 2, "--model_id_or_path is missing"),
        ({"command": ["sft", "--model_typ", "x"]}, 2, "did you mean --model_type"),
        ({"name": "My Job"}, 2, "no name of a job"),
        ({"time": "soon"}, 2, "no time"),
        ({"partition": "a b\n#SBATCH --x"}, 2, "no name"),
        ({"emit": "kubeflow"}, 2, "--image is missing"),
        ({"emit": "skypilot", "time": "1"}, 78, "--time cannot be said to skypilot"),
        ({"emit": "ray", "image": "x"}, 78, "--image cannot be said to ray"),
        ({"processes": 4, "gpus": 2}, 78, "share --gpus 2"),
        ({"command": [*RUN, "--deepspeed", "zero9"]}, 66, "one of zero1"),
        ({"command": [*RUN, "--deepspeed", "zero2", "--fsdp", "full_shard"]}, 78, "both share the model"),
        ({"command": [*RUN, "--fsdp", "half"]}, 2, "--fsdp 'half' is not known"),
        ({"command": [*RUN, "--device_map", "auto"], "nodes": 2}, 78, "places one process's model: not with 2"),
        (
            {"command": [*RUN, "--tensor_parallel_size", "3"], "gpus": 8},
            78,
            "--tensor_parallel_size 3 with 8 processes",
        ),
    ],
)
def test_what_cannot_run_is_refused_before_it_waits_in_a_queue(options: dict[str, Any], code: int, says: str) -> None:
    with pytest.raises(SwiftError) as caught:
        job_of(said(**options))
    assert caught.value.exit_code == code
    assert re.search(re.escape(says), str(caught.value)), caught.value


def test_a_file_is_written_and_how_to_submit_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "my job.sbatch"
    assert main(["launch", "--emit", "slurm", "--output", str(file), "--", *WORDS]) == 0
    assert file.read_text(encoding="utf-8").startswith("#!/bin/bash\n#SBATCH")
    assert f"sbatch '{file}'" in caplog.text
    assert main(["launch", "--emit", "slurm", "--output", str(tmp_path / "no" / "a"), "--", *WORDS]) == 73
    assert main(["launch", "--emit", "slurm", "--output", str(tmp_path), "--", *WORDS]) == 73
    assert main(["launch", "--emit", "slurm"]) == 2

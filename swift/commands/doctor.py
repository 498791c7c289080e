"""`swift doctor`: whether this machine is ready to train, and the command that mends what is not.

Ends with 0 when training can start, else with the exit code of what is wrong. Tokens are never shown, only whether
there are any. Torch is asked in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift import hub, storage
from swift._version import __version__
from swift.arguments.verbs import DoctorArguments
from swift.commands.packages import Package, extras, install_command, mismatches, packages
from swift.errors import ConfigError, DiskError, MissingPackageError, SwiftError, raise_all
from swift.redact import redact, redact_text

OLDEST_PYTHON = (3, 11)
LITTLE_BYTES, TOO_LITTLE_BYTES = 5 << 30, 64 << 20
LONGEST_PROBE_SECONDS = 180
SETTINGS = ("USE_HF", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "MODELSCOPE_CACHE", "MODELSCOPE_DOMAIN")


@dataclass
class Health:
    """What was found: facts by topic, `warnings` in words, and `errors` that keep training from starting."""

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    errors: list[SwiftError] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, secrets blacked out."""
        said = [{"code": e.code, "what": e.what, "why": e.why, "fix": e.fix} for e in self.errors]
        return redact({"ready": not self.errors, **self.facts, "warnings": self.warnings, "errors": said})


def doctor_main(args: DoctorArguments) -> dict[str, Any]:
    """Print what was found, as text or as one line of JSON, and return it.

    Raises:
        SwiftError: what keeps training from starting.
    """
    health = examine(os.environ)
    found = health.to_json()
    sys.stdout.write((json.dumps(found) if args.json else describe(found)) + "\n")
    sys.stdout.flush()
    raise_all(health.errors)
    return found


def examine(env: Mapping[str, str]) -> Health:
    """Look at everything."""
    health = Health({"swift": __version__, "python": platform.python_version(), "platform": platform.platform()})
    if sys.version_info < OLDEST_PYTHON:
        health.errors.append(
            MissingPackageError("PACKAGE-01", f"Python {platform.python_version()} is older than 3.11")
        )
    _packages(health)
    _devices(health)
    _disk(health, env)
    health.facts["hub"] = hub_settings(env)
    return health


def _packages(health: Health) -> None:
    every = packages()
    core = [package for package in every if package.extra is None]
    health.facts["packages"] = [_package(package) for package in core]
    wrong = [package for package in core if not package.fits]
    for package in wrong:
        have = f"{package.name} {package.installed}" if package.installed else f"no {package.name}"
        what = f"{have} is installed, {package.name}{package.needed} is needed"
        health.errors.append(MissingPackageError("PACKAGE-01", what, fix=install_command()))
    health.facts["extras"] = {name: _extra(name, group) for name, group in extras(every).items()}
    health.warnings += [f"{sentence}; pip install the one that fits, or uninstall it" for sentence in mismatches()]


def _package(package: Package) -> dict[str, Any]:
    return {"name": package.name, "installed": package.installed, "needed": package.needed, "ok": package.fits}


def _extra(name: str, group: list[Package]) -> dict[str, Any]:
    missing = [package.name for package in group if not package.fits]
    return {"ok": not missing, "missing": missing, "install": install_command(name) if missing else None}


def _devices(health: Health) -> None:
    memory = _memory()
    cpu = {"name": "cpu", "cores": len(_cores()), "memory_bytes": memory[0], "free_bytes": memory[1]}
    found = ask_torch()
    health.facts["devices"] = [cpu, *found.get("devices", [])]
    health.facts["cuda"] = found.get("cuda")
    if "error" in found:
        what = f"torch cannot be used: {found['error']}"
        health.errors.append(ConfigError("CONFIG-03", what, fix="install torch anew, as fits this machine"))
    for name, error in found.get("broken", {}).items():
        health.warnings.append(
            f"{name} cannot be imported ({error}); pip uninstall {name}, or install the one that fits"
        )
    if not found.get("devices") and shutil.which("nvidia-smi"):
        health.warnings.append("there is an NVIDIA driver, and torch sees no GPU: is it a CPU build of torch?")


def _cores() -> range:
    """As many as this process may use."""
    return range(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


def _memory() -> tuple[int | None, int | None]:
    """Total and free memory of the machine in bytes, None where it does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None, None
    found = {name: int(count) << 10 for name, count in re.findall(r"(\w+):\s+(\d+) kB", text)}
    return found.get("MemTotal"), found.get("MemAvailable")


def ask_torch() -> dict[str, Any]:
    """What `swift.commands.probe` prints; `{"error": ...}` when it ends badly or hangs."""
    command = [sys.executable, "-m", "swift.commands.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"it did not answer within {LONGEST_PROBE_SECONDS} seconds"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"])[-1]
        return {"error": redact_text(last[:300])}
    return json.loads(done.stdout.splitlines()[-1])


def _disk(health: Health, env: Mapping[str, str]) -> None:
    health.facts["disk"] = []
    for name, path in places(env).items():
        free = storage.free_bytes(path)
        health.facts["disk"].append({"name": name, "path": str(path), "free_bytes": free})
        if free < TOO_LITTLE_BYTES:
            what = f"{path} ({name}) has {free >> 20} MiB left"
            health.errors.append(DiskError("DISK-01", what, fix="free some space, or use another disk"))
        elif free < LITTLE_BYTES:
            health.warnings.append(f"{path} ({name}) has {free / (1 << 30):.1f} GiB left")


def places(env: Mapping[str, str]) -> dict[str, Path]:
    """The directories that a run writes to: here, and where the hub's files land."""
    home = Path.home()
    modelscope = Path(env.get("MODELSCOPE_CACHE") or home / ".cache" / "modelscope")
    hugging_face = Path(env.get("HF_HOME") or home / ".cache" / "huggingface")
    return {"here": Path.cwd(), "downloads": (hugging_face if hub.use_hf() else modelscope).expanduser()}


def hub_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """Which hub is asked, what the environment sets, and whether there are tokens."""
    home = Path(env.get("HF_HOME") or Path.home() / ".cache" / "huggingface").expanduser()
    login = Path.home() / ".modelscope" / "credentials" / "git_token"
    return {
        "name": "Hugging Face" if hub.use_hf() else "ModelScope",
        "settings": {name: redact_text(env[name]) for name in SETTINGS if env.get(name)},
        "logins": {
            "Hugging Face": _login(env, ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), home / "token"),
            "ModelScope": _login(env, ("MODELSCOPE_API_TOKEN",), login),
        },
    }


def _login(env: Mapping[str, str], names: tuple[str, ...], file: Path) -> str:
    """Where a login comes from, never what it is."""
    said = next((name for name in names if env.get(name)), None)
    return f"from {said}" if said else f"from {file}" if file.exists() else "none"


def describe(found: Mapping[str, Any]) -> str:
    """Everything in lines for people."""
    lines = [f"swift {found['swift']}, Python {found['python']}, {found['platform']}", "", "Packages"]
    for package in found["packages"]:
        mark = "ok" if package["ok"] else "WRONG"
        lines.append(f"  {package['name']:<14}{package['installed'] or 'missing':<16}{package['needed']:<14}{mark}")
    lines += ["", "Extras"]
    for name, extra in found["extras"].items():
        state = "ok" if extra["ok"] else f"lacks {', '.join(extra['missing'])}: {extra['install']}"
        lines.append(f"  {name:<14}{state}")
    lines += ["", "Devices", *(f"  {_device(device)}" for device in found["devices"])]
    lines += ["", "Disk"]
    lines += [f"  {disk['name']:<14}{_size(disk['free_bytes'])} free in {disk['path']}" for disk in found["disk"]]
    settings = found["hub"]
    lines += ["", "Hub", f"  asked         {settings['name']} (USE_HF=1 is Hugging Face, USE_HF=0 ModelScope)"]
    lines += [f"  {name}={value}" for name, value in settings["settings"].items()]
    lines += [f"  {name:<14}login: {login}" for name, login in settings["logins"].items()]
    lines += ["", *(f"warning: {warning}" for warning in found["warnings"])]
    return "\n".join([*lines, "ready" if found["ready"] else "not ready"])


def _device(device: Mapping[str, Any]) -> str:
    kind = device.get("kind") or (f"{device['cores']} cores" if "cores" in device else "")
    total, free = device.get("memory_bytes"), device.get("free_bytes")
    memory = f", {_size(free)} of {_size(total)} free" if total and free else ""
    half = "" if "bf16" not in device else ", bf16" if device["bf16"] else ", no bf16"
    return f"{device['name']:<14}{kind}{memory}{half}"


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"

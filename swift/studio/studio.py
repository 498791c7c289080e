"""What the studio does, without its pages: check, estimate, preview, start, stop, go on."""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift.arguments.data_verbs import DataArguments
from swift.arguments.fields import options_of
from swift.arguments.reading import parse, places_of
from swift.datasets import DATASETS
from swift.errors import RefusedError, UsageError
from swift.models import MODELS
from swift.studio.form import HIDDEN_GROUPS, Entered, Form, read_environment
from swift.studio.jobs import Job, Jobs
from swift.studio.looking import Look, Looker
from swift.studio.offers import TRAIN
from swift.studio.runs import Run, Runs, as_options
from swift.studio.workspace import Workspace

LARGEST_COUNTED = 16 << 20  # bytes of data that an estimate reads while somebody types
PREVIEW = "preview.html"
BUNDLED = "demo"
DANGEROUS = ("trust_remote_code",)
OURS = ("output_dir", "add_output_dir_suffix", "resume_from_checkpoint")
"""Options that the studio says itself."""


class Studio:
    """One workspace, and what is done in it.

    Args:
        workspace: the directory.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.jobs = Jobs(workspace)
        self.runs = Runs(workspace, self.jobs)
        self.looker = Looker(workspace)
        self._starting = threading.Lock()

    def close(self) -> None:
        """End what belongs to the server; runs go on."""
        self.looker.close()

    def start_training(self, form: Form, entered: Entered, environment: Mapping[str, str | None], name: str) -> str:
        """Begin a run; its directory, from the workspace on.

        Raises:
            SwiftError: the options are such that it could not start.
        """
        words, variables = form.check(entered, self.workspace), read_environment(environment)
        model = str(entered.get("model_type") or entered.get("model_id_or_path") or "")
        with self._starting:  # two tabs may start at the same moment
            output = self.runs.choose_output(model, name.strip())
            self.jobs.start(form.command, [*words, *_into(output)], variables, output)
        return output

    def resume(self, path: str) -> str:
        """Let a run go on from its last checkpoint; that checkpoint.

        Raises:
            UsageError: it runs, or has none.
            RefusedError: it was started with plug-ins.
        """
        with self._starting:
            return self._resume(path)

    def _resume(self, path: str) -> str:
        run = self.runs.get(path)
        places = run.checkpoints()
        if run.state in ("running", "stopping"):
            raise UsageError("USAGE-02", f"{path} is still running", fix="stop it first")
        if not places:
            raise UsageError("USAGE-02", f"{path} has no checkpoint to go on from", fix="start it anew")
        last = self.workspace.relative(places[0])
        form, job = TRAIN[run.command], run.job
        entered = self.options_of(run) if job is None else self.entered_of(form, job)
        variables = read_environment({} if job is None else job.environment)  # which may have come with the workspace
        words = [*form.check(entered, self.workspace), *_into(path), "--resume_from_checkpoint", last]
        self.jobs.start(form.command, words, variables, path)
        return last

    def options_of(self, run: Run) -> dict[str, Any]:
        """What a form holds to do the same as a run.

        Raises:
            RefusedError: it was started with plug-ins, which no form has.
        """
        form = TRAIN[run.command]
        infos = options_of(form.arguments)
        for name, info in infos.items():
            hidden = info.group in HIDDEN_GROUPS or name in DANGEROUS
            if hidden and run.said.get(name) not in (None, info.default):
                fix = "go on with `swift sft` in a terminal"
                raise RefusedError("REFUSED-01", f"{run.path} was started with --{name}", fix=fix)
        return form.show(as_options(run.said, form.fields))

    def entered_of(self, form: Form, job: Job) -> dict[str, Any]:
        """What a form holds to say the same as the words of a job.

        Raises:
            RefusedError: they say what no form does.
        """
        named = places_of(form.arguments, job.words).keys()
        strange = [name for name in named if name not in form.fields and name not in OURS]
        if strange:
            fix = f"go on with `swift {form.command}` in a terminal"
            raise RefusedError("REFUSED-01", f"{job.output} was started with --{strange[0]}", fix=fix)
        args = parse(form.arguments, job.words, quiet=True)
        return form.show({name: getattr(args, name) for name in named if name in form.fields})

    def stop(self, path: str) -> None:
        """Ask a run to save and end, and the second time end it.

        Raises:
            UsageError: it was started elsewhere.
        """
        run = self.runs.get(path)
        if run.job is None or (run.state == "running" and not run.job.alive()):
            what = f"{path} was started from a command line"
            raise UsageError("USAGE-02", what, fix="press Ctrl-C in its terminal")
        run.job.stop()

    def start_task(self, form: Form, checkpoint: str, entered: Entered) -> Job:
        """Export or evaluate a checkpoint.

        Raises:
            SwiftError: the options are such that it could not start.
        """
        words = [*self.model_words(checkpoint), *form.check(entered, self.workspace)]
        return self.jobs.start(form.command, words)

    def model_words(self, said: str) -> list[str]:
        """The options that load a registered model, a checkpoint, or a model's directory.

        Raises:
            UsageError: it is none of these.
        """
        if said in MODELS:
            return ["--model_type", said]
        place = self.workspace.root / self.runs.checkpoint(said)
        return ["--ckpt_dir" if (place / "sft_args.json").is_file() else "--model_id_or_path", said]

    def models(self) -> list[str]:
        """What can be talked to, exported and evaluated: checkpoints, models here, those that come along."""
        found = [p for p in self.workspace.walk() if p.name == "config.json" and _is_model(p.parent)]
        bundled = sorted(name for name in MODELS if name.startswith(f"{BUNDLED}-"))
        return [*self.runs.checkpoints(), *(self.workspace.relative(p.parent) for p in found), *bundled]

    def datasets(self) -> list[str]:
        """What can be trained on: files of the workspace, then registered names."""
        return [*self.workspace.data_files(), *sorted(DATASETS)]

    # By the process that looks

    def check(self, form: Form, entered: Entered) -> Look:
        """What `--dry_run` says."""
        return self.looker.look([form.command, *form.check(entered, self.workspace), "--dry_run"])

    def estimate(self, form: Form, entered: Entered) -> dict[str, Any] | str:
        """What `swift estimate --json` says, or why it says nothing; data that would take long is left out."""
        form.check_paths(entered, self.workspace)
        if form.command != "sft" or not all(self.is_small(str(spec)) for spec in entered.get("dataset") or []):
            entered = {**entered, "dataset": [], "val_dataset": []}
        found = self.looker.look(["estimate", *TRAIN["sft"].words(entered), "--json"])
        return json.loads(found.said.strip().splitlines()[-1]) if found.code == 0 else found.error

    def is_near(self, entered: Entered) -> bool:
        """Whether a model is on this machine, so that looking at it asks nobody."""
        name = str(entered.get("model_id_or_path") or "")
        place = self.workspace.root / name
        return place.is_dir() if name else str(entered.get("model_type") or "").startswith(f"{BUNDLED}-")

    def is_small(self, spec: str) -> bool:
        """Whether a data set can be read in a moment and asks nobody."""
        name = spec.partition("#")[0]
        if name in DATASETS and DATASETS[name].path is not None:  # it comes along
            return True
        place = self.workspace.root / spec
        if not place.is_file():
            place = self.workspace.root / spec.partition("@")[0].rpartition("#")[0]
        return place.is_file() and place.stat().st_size <= LARGEST_COUNTED

    def preview(self, form: Form, entered: Entered) -> str:
        """The page of `swift data preview`.

        Raises:
            UsageError: there is no data yet, or what the command says is wrong.
        """
        names = options_of(DataArguments).keys() & form.fields.keys()
        entered = {name: entered[name] for name in names if name in entered}
        form.check_paths(entered, self.workspace)
        place = self.workspace.state / f"preview-{secrets.token_hex(6)}"
        where = self.workspace.relative(place)
        words = ["data", "--action", "preview", *form.words(entered), "--rows", "5", "--output", where]
        try:
            found = self.looker.look(words)
            if found.code or not (place / PREVIEW).is_file():
                raise UsageError("USAGE-02", found.error)
            return (place / PREVIEW).read_text(encoding="utf-8")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _into(output: str) -> list[str]:
    return ["--output_dir", output, "--add_output_dir_suffix", "false"]


def _is_model(directory: Path) -> bool:
    return any(directory.glob("*.safetensors"))

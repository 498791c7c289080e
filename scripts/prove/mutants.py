"""Our own guards, broken one at a time in a copy: a quick test has to notice each.

A test that stays green while the guard that it is about is gone proves nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.prove.runs import place

REPO = Path(__file__).resolve().parents[2]
NEEDED = ("swift", "tests", "scripts")
STORAGE, CHECKPOINT = "tests/test_storage.py::test_", "tests/test_checkpoint.py::test_"
COMMITTING = "tests/trainers/test_committing.py::test_"
TRAINER, PACKS = "tests/trainers/test_trainer.py::test_", "tests/trainers/test_packs.py::test_"
PREFERENCE, HEADS = "tests/preference/test_losses.py::test_", "tests/heads/test_losses.py::test_"
JOINED = "tests/datasets/test_pack.py::test_positions_begin_again_and_first_labels_are_masked"
ORDER = f"{STORAGE}all_is_on_the_disk_before_its_name_and_the_name_before_anything_else"


@dataclass(frozen=True)
class Mutant:
    """A guard in a file of `swift/`, what stands there instead, and the quick test that has to fail then."""

    file: str
    guard: str
    instead: str
    test: str


MUTANTS = {
    "the files of a directory are not synced": Mutant(
        "storage.py", "[*_files(stage), *_directories(stage)]:", "[*_directories(stage)]:", ORDER
    ),
    "the place of a new name is not synced": Mutant(
        "storage.py", "stage.rename(final)\n    _sync(final.parent)", "stage.rename(final)", ORDER
    ),
    "a file is not synced": Mutant(
        "storage.py", "            os.fsync(handle)\n", "", f"{STORAGE}a_failed_write_leaves_the_old_file"
    ),
    "a file is written under its name": Mutant(
        "storage.py", '    stage = path.with_name(f"{STAGE}{path.name}-{os.getpid()}")\n', "    stage = path\n",
        f"{STORAGE}a_failed_write_leaves_the_old_file",
    ),
    "what is replaced is deleted first": Mutant(
        "storage.py", "final.rename(old)", "shutil.rmtree(final)",
        f"{STORAGE}killed_at_any_point_a_directory_is_old_or_new",
    ),
    "what goes is deleted under its name": Mutant(
        "storage.py", "        directory.rename(trash)\n        _sync(trash.parent)\n", "        trash = directory\n",
        "tests/test_retention.py::test_killed_at_any_point_of_saving_and_rotating_a_whole_one_is_left[1]",
    ),
    "what others write is swept": Mutant(
        "storage.py", " or _alive(int(pid))", "", f"{STORAGE}removal_and_sweeping"
    ),
    "nobody is kept out of a directory": Mutant(
        "storage.py", "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass",
        f"{STORAGE}a_directory_is_of_one_run_at_a_time",
    ),
    "a manifest's own digest is not compared": Mutant(
        "storage.py", "if _sealed(body) != data:", "if not data:", f"{STORAGE}every_flipped_byte_of_a_manifest_shows"
    ),
    "the digests of files are not compared": Mutant(
        "storage.py", "return None if fast or", "return None if True or", f"{STORAGE}damage_to_a_file_shows[flipped]"
    ),
    "a manifest is not asked before going on": Mutant(
        "checkpoint.py", "    if faults:\n        return faults\n    listed", "    listed",
        f"{CHECKPOINT}a_damaged_one_is_passed_over_and_refused[cut-optimizer.pt]",
    ),
    "a missing part of the state is not asked for": Mutant(
        "checkpoint.py", "for name in wanted if", "for name in () if",
        f"{CHECKPOINT}one_without_all_of_its_state_cannot_be_gone_on_from[optimizer.pt]",
    ),
    "the newest checkpoint may be rotated away": Mutant(
        "checkpoint.py", "pinned = {found[-1].resolve(), *", "pinned = {*",
        f"{CHECKPOINT}rotation_keeps_the_newest_and_the_best",
    ),
    "the disk is not asked before saving": Mutant(
        "checkpoint.py", "    if sizes:\n", "    if not sizes and sizes:\n",
        f"{CHECKPOINT}the_disk_is_asked_before_a_second_checkpoint",
    ),
    "numbers that are not finite are saved": Mutant(
        "checkpoint.py", "not torch.isfinite(tensor).all()", "tensor is None",
        f"{CHECKPOINT}nothing_that_is_not_finite_is_saved[nan]",
    ),
    "a checkpoint gets its name before all processes have written": Mutant(
        "trainers/committing.py",
        "yield self._from_main(stage)\n                self.accelerator.wait_for_everyone()\n",
        "yield self._from_main(stage)\n",
        "tests/trainers/test_faults.py::test_a_checkpoint_gets_its_name_when_all_processes_have_written",
    ),
    "a checkpoint's names and shapes are not compared": Mutant(
        "trainers/committing.py", "saving.check_adapter_fits(target, Path(resume_from_checkpoint))", "pass",
        f"{COMMITTING}a_tuner_of_another_shape_is_refused",
    ),
    "a run goes on from another one's checkpoint": Mutant(
        "trainers/sameness.py", "    if not found:\n        return\n", "    return\n",
        f"{COMMITTING}another_machine_is_refused",
    ),
    "training goes on with what is not finite": Mutant(
        "trainers/ahead.py", "if not math.isfinite(value):", "if value is None:",
        f"{TRAINER}a_number_that_is_not_finite_stops_the_run",
    ),
    "an adapter's names and shapes are not compared": Mutant(
        "tuners/files.py", "    if said:\n", "    if said is None:\n",
        "tests/tuners/test_files.py::test_the_base_is_named_when_it_does_not_fit",
    ),
    "an adapter's base is not compared": Mutant(
        "tuners/sampled.py", "if differing and not allow_other:", "if differing is None:",
        "tests/tuners/test_fingerprint.py::test_it_travels_and_another_base_has_to_be_allowed[ours]",
    ),
    "a pickle is read": Mutant(
        "tuners/files.py", "weights_only=True", "weights_only=False",
        "tests/tuners/test_files.py::test_a_pickle_never_runs",
    ),
    "code that a model brings runs unasked": Mutant(
        "models/remote_code.py", "    if allowed or _agrees(directory, files):", "    if directory:",
        "tests/models/test_remote_code.py::test_code_is_refused_with_its_files_and_the_flag",
    ),
    "a signal is not heard": Mutant(
        "trainers/stopping.py", "        self.due = self.number\n", "        self.due = 0\n",
        "tests/trainers/test_stopping.py::test_what_a_scheduler_repeats_changes_nothing",
    ),
    "a step is divided by the tokens of its last batch": Mutant(
        "trainers/trainer.py", "torch.stack(weights).sum()", "weights[-1]",
        f"{TRAINER}a_step_is_one_step_however_it_is_split[False]",
    ),
    "rows that fill up a batch are learnt": Mutant(
        "trainers/trainer.py", "labels_BT.masked_fill(row_BT >= real, IGNORED)", "labels_BT",
        f"{PACKS}rows_that_fill_up_a_batch_without_padding_are_not_learnt[0]",
    ),
    "the first token of a row is learnt from the row before": Mutant(
        "datasets/pack.py", '    packed["labels"][starts] = IGNORED\n', "", JOINED
    ),
    "positions go on from row to row": Mutant("datasets/pack.py", " - np.repeat(starts, lengths)", "", JOINED),
    "a model is packed that lets rows see each other": Mutant(
        "trainers/packs.py", "    if reason is not None:\n", "    if reason is not None and not reason:\n",
        f"{PACKS}a_model_that_cannot_is_refused_with_the_reason",
    ),
    "the padding of packs is counted as tokens": Mutant(
        "trainers/tally.py", "(columns_T * (positions_BT > 0)).amax(dim=1).sum()",
        "torch.tensor(positions_BT.numel() * columns_T.ndim)",
        f"{PACKS}a_batch_of_packs_is_counted_without_its_padding",
    ),
    "a preference is not measured against its reference": Mutant(
        "preference/losses.py", "return self.chosen_P - self.ref_chosen_P, self.rejected_P - self.ref_rejected_P",
        "return self.chosen_P, self.rejected_P", f"{PREFERENCE}a_loss_of_one_pair_is_its_formula[dpo-sigmoid]",
    ),
    "what KTO compares with is learnt through": Mutant(
        "preference/losses.py", "ratio_P.detach().mean()", "ratio_P.mean()",
        f"{PREFERENCE}a_pair_of_kto_learns_nothing_through_others",
    ),
    "a preference run goes on with another loss": Mutant(
        "preference/trainer.py", '{**super()._run, **said, "reference"', '{**super()._run, "reference"',
        "tests/preference/test_reference.py::test_a_run_tells_which_reference_and_smooths_no_log_probability",
    ),
    "a query is compared with what it must not be": Mutant(
        "heads/losses.py", ".masked_fill(~allowed_RC, -torch.inf)", "", f"{HEADS}infonce_of_ragged_rows"
    ),
    "documents of other queries compete": Mutant(
        "heads/losses.py", "same_CC & ~relevant_C[None, :]", "~relevant_C[None, :]", f"{HEADS}rerankers"
    ),
    "a head goes on with another objective": Mutant(
        "heads/trainer.py", ", **objective}", "}", "tests/heads/test_rows.py::test_a_run_tells_its_head_and_objective"
    ),
}  # fmt: skip


RUNNER = """
import json, os, sys
import datasets, peft, pytest, torch, transformers
for line in sys.stdin:
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *json.loads(line)]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def noticed(few: bool = False) -> tuple[int, int]:
    """How many of the broken guards a test noticed; with `few` those of checkpoints alone."""
    chosen = list(MUTANTS.values())[: 15 if few else None]
    with place() as here:
        for name in NEEDED:
            shutil.copytree(REPO / name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(REPO / "pyproject.toml", here)
        with running(here) as runner:
            if tested(runner, *(mutant.test for mutant in chosen)) != 0:
                return 0, len(chosen)  # they have to hold where nothing is broken
            return sum(_fails(here, runner, mutant) for mutant in chosen), len(chosen)


def _fails(copy: Path, runner: subprocess.Popen[str], mutant: Mutant) -> bool:
    path = copy / "swift" / mutant.file
    whole = path.read_text(encoding="utf-8")
    _write(path, whole.replace(mutant.guard, mutant.instead))
    try:
        return tested(runner, mutant.test) == 1  # that of failed tests; 2 and more are of tests that did not run
    finally:
        _write(path, whole)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)  # its clock has but seconds


@contextmanager
def running(copy: Path) -> Iterator[subprocess.Popen[str]]:
    """What runs tests of a copy of the project, each time in a child that has imported all but the project."""
    env = {**os.environ, "PYTHONPATH": str(copy)}
    words = [sys.executable, "-c", RUNNER]
    with subprocess.Popen(words, cwd=copy, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runner:
        yield runner


def tested(runner: subprocess.Popen[str], *tests: str) -> int:
    """The exit code of pytest for some tests."""
    assert runner.stdin
    assert runner.stdout
    runner.stdin.write(f"{json.dumps(tests)}\n")
    runner.stdin.flush()
    return int(runner.stdout.readline())

"""`swift rerun run.lock.json`: do a run again from its receipt, and say whether it gave the same numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift import dist
from swift.arguments.fields import options_of
from swift.arguments.sft import SftArguments
from swift.arguments.verbs import RerunArguments
from swift.commands.receipt import FACTS, RECEIPT, first_difference, read_receipt
from swift.commands.run import next_version
from swift.commands.task import find_task, task_of
from swift.commands.training import train
from swift.errors import ConfigError, InternalError
from swift.log import get_logger

logger = get_logger()


def rerun_main(args: RerunArguments) -> dict[str, Any]:
    """Repeat a run; return what was compared.

    Raises:
        ConfigError: it was a run of another number of processes.
        InternalError: the losses or the weights are others.
    """
    assert args.receipt is not None
    then = read_receipt(args.receipt)
    if then["world_size"] != dist.world_size():
        fix = f"NPROC_PER_NODE={then['world_size']} swift rerun {args.receipt}"
        raise ConfigError(
            "CONFIG-02", f"that run had {then['world_size']} processes, this one {dist.world_size()}", fix=fix
        )
    task = find_task(then.get("command", "sft"))
    said = options_to_repeat(then["arguments"], args.output_dir, task.arguments)
    train(said, task_of(said))
    if not dist.is_main():
        return {}
    now = read_receipt(str(Path(said.output_dir) / RECEIPT))
    found = compare(then, now)
    sys.stdout.write(f"{json.dumps(found) if args.json else describe(found)}\n")
    if not found["identical"]:
        raise InternalError(
            "RUN-03", f"the run was repeated and gave other numbers: {found['difference']}", why=_why(found)
        )
    return found


def options_to_repeat(
    saved: dict[str, Any], output_dir: str | None, arguments: type[SftArguments] = SftArguments
) -> SftArguments:
    """The options of the run, which writes elsewhere and begins where it once began."""
    known = options_of(arguments)
    options = arguments(**{name: value for name, value in saved.items() if name in known})
    before = Path(options.output_dir)
    place = Path(output_dir).expanduser() if output_dir else before.with_name(f"rerun-of-{before.name}")
    if not output_dir and place.exists():
        place = place / next_version(place)
    kept = options.resume_from_checkpoint if options.resume_only_model else None
    return replace(
        options,
        output_dir=str(place.resolve()),
        add_output_dir_suffix=False,
        resume_from_checkpoint=kept,
        dry_run=False,
        push_to_hub=False,
    )


def compare(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Whether two receipts have the same curve and weights, and what else differs in them."""
    difference = first_difference(then["curve"], now["curve"])
    if difference is None and then["weights"] != now["weights"]:
        difference = "the weights at the end are others"
    return {
        "identical": difference is None,
        "difference": difference,
        "losses": len(now["curve"]),
        "weights": len(now["weights"]),
        "changed": {name: [then[name], now[name]] for name in FACTS if then[name] != now[name]},
    }


def describe(found: dict[str, Any]) -> str:
    """The outcome, in lines."""
    changed = [f"{name}: was {then}, is {is_now}" for name, (then, is_now) in found["changed"].items()]
    files = f"{found['weights']} file(s) of weights" if found["weights"] else "no weights were saved"
    end = "identical" if found["identical"] else f"not identical: {found['difference']}"
    return "\n".join([*changed, f"loss curve and weights: {end} ({found['losses']} lines of the log, {files})"])


def _why(found: dict[str, Any]) -> str:
    changed = ", ".join(found["changed"])
    return f"changed since: {changed}" if changed else "nothing that is known of has changed; try --deterministic"

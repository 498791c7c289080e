"""Options of the small commands: `swift models`, `datasets`, `doctor`, `rerun`, `schema` and `completion`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class ModelsArguments:
    """List the registered models, search them, or say what a model's directory holds."""

    search: list[str] = option(
        [],
        group="Search",
        help="Words that are all in a model's name, ids, template or class, or one directory; no name is needed.",
    )
    family: str | None = option(None, group="Search", help="Only models of this family, such as qwen.", none="all")
    json: bool = option(False, group="Output", help="One line of JSON for machines instead of a table.")


@dataclass(kw_only=True)
class DatasetsArguments:
    """List the data sets that have a name, or search them."""

    search: list[str] = option(
        [], group="Search", help="Words that are all in a data set's name, ids, subsets or tags; no name is needed."
    )
    custom_dataset_info: list[str] = option(
        [], group="Search", help="Further data sets by name: a `dataset_info.json`, or such an object itself."
    )
    json: bool = option(False, group="Output", help="One line of JSON for machines instead of a table.")


@dataclass(kw_only=True)
class DoctorArguments:
    """Say whether this machine is ready: packages, extras, devices, disk, hub."""

    json: bool = option(False, group="Output", help="One line of JSON for machines instead of text.")


@dataclass(kw_only=True)
class RerunArguments:
    """Do a run again from its receipt, run.lock.json, and say whether the loss curve and the weights are identical."""

    receipt: str | None = option(
        None,
        group="Input",
        help="A run.lock.json, a run, or what is above it (its newest run); the word after `swift rerun`.",
        none="it has to be said",
    )
    output_dir: str | None = option(
        None, group="Output", help="Where the run is written again.", none="`rerun-of-<run>` beside the run"
    )
    json: bool = option(False, group="Output", help="One line of JSON for machines instead of text.")


@dataclass(kw_only=True)
class SchemaArguments:
    """Print the JSON schema of a command's configuration file, for editors."""

    command: str | None = option(
        None,
        group="Output",
        choices=(
            "sft",
            "rlhf",
            "pt",
            "infer",
            "eval",
            "app-ui",
            "web-ui",
            "deploy",
            "export",
            "push",
            "pull",
            "data",
            "estimate",
        ),
        help="The command whose options are described; the word after `swift schema`.",
        none="it has to be said",
    )


@dataclass(kw_only=True)
class CompletionArguments:
    """Print a script that completes commands, options and names in a shell."""

    shell: str | None = option(
        None,
        group="Output",
        choices=("bash", "zsh", "fish"),
        help="The shell; the word after `swift completion`.",
        none="it has to be said",
    )

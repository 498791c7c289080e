"""Options of what goes to a hub and comes from one: `swift push`, `swift pull`, `--push_to_hub`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

STRATEGIES = ("end", "push_best", "push_last", "every_save", "checkpoint", "all_checkpoints")


@dataclass(kw_only=True)
class HubOptions:
    """Which hub, which repository, as whom."""

    hub_model_id: str | None = option(
        None,
        group="Hub",
        help="The repository, `owner/name`, or `name` for one of yours.",
        none="the directory's model and tuner, such as `qwen2_5-0_5b-instruct-lora`",
    )
    hub_token: str | None = option(
        None,
        group="Hub",
        help="The token to write with. Others on the machine can read a command line: the environment is better.",
        none="HF_TOKEN or MODELSCOPE_API_TOKEN, or who is logged in",
    )
    use_hf: bool | None = option(
        None, group="Hub", help="Hugging Face, or, when false, ModelScope.", none="as the variable USE_HF says"
    )


@dataclass(kw_only=True)
class PublishOptions(HubOptions):
    """How a model is published."""

    hub_private_repo: bool = option(
        False, group="Hub", help="Let only its owner see a repository that is made; an existing one has to be private."
    )
    hub_license: str | None = option(
        None, group="Hub", help="Licence that the model card names, such as apache-2.0.", none="that of the base model"
    )
    allow_leak: list[str] = option(
        [],
        group="Hub",
        help="Files, or `file:line`, that may leave although they seem to hold a secret or a path of this machine.",
    )


@dataclass(kw_only=True)
class PushingOptions(PublishOptions):
    """Publishing while a run trains."""

    push_to_hub: bool = option(False, group="Hub", help="Publish the model of this run, with a card that describes it.")
    push_hub_strategy: str = option(
        "push_best",
        group="Hub",
        choices=STRATEGIES,
        help="What to publish when: the best checkpoint at the end, whenever there is a better one (push_best), the "
        "last at every save (push_last, every_save), also with all that resuming needs (checkpoint), or every one.",
    )


@dataclass(kw_only=True)
class CommitOptions:
    """What a commit is called."""

    commit_message: str | None = option(
        None, group="Hub", help="What the commit is called.", none="the name of what is published"
    )


@dataclass(kw_only=True)
class PushArguments(CommitOptions, PublishOptions):
    """Publish a checkpoint or model on Hugging Face or ModelScope, with a card that describes it."""

    directory: str | None = option(
        None,
        group="Input",
        help="A checkpoint, a model, or a run (its newest checkpoint); the word after `swift push`.",
        none="it has to be said",
    )
    with_state: bool = option(
        False, group="Input", help="Publish what resuming needs too: optimiser, schedule, random states."
    )
    path_in_repo: str | None = option(
        None, group="Hub", help="Folder of the repository to write into.", none="its root, with a model card"
    )
    dry_run: bool = option(False, group="Output", help="Show the files and the card, and ask no hub.")
    json: bool = option(False, group="Output", help="One line of JSON for machines instead of text.")


@dataclass(kw_only=True)
class PullArguments(HubOptions):
    """Fetch a model or checkpoint from Hugging Face or ModelScope into a directory, and check that it is whole."""

    output_dir: str | None = option(
        None, group="Output", help="The directory, which must not exist.", none="the repository's name"
    )
    revision: str | None = option(None, group="Hub", help="Branch, tag or commit.", none="the newest")
    json: bool = option(False, group="Output", help="One line of JSON for machines instead of text.")

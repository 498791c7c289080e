"""`swift app-ui`: a page in the browser to chat with a model or checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swift.arguments.app_ui import AppUIArguments
from swift.arguments.infer import InferArguments
from swift.arguments.reading import read_arguments
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_decided, load_template, load_tuned_model, read_saved
from swift.decide import tidy
from swift.errors import MissingPackageError
from swift.log import get_logger
from swift.models.load import detect_hardware
from swift.models.source import ModelSource
from swift.ui.answers import Answers
from swift.ui.serving import known_hosts, listen, read_access
from swift.ui.words import Words, choose_words

if TYPE_CHECKING:
    from swift.ui.chat_page import Served

logger = get_logger()
NOT_USED = (
    "query", "dataset", "val_dataset", "show_dataset_sample", "batch_size", "verbose", "save_result", "result_dir",
    "overwrite_generation_config",
)  # fmt: skip


def app_ui_main(
    said: InferArguments | list[str] | None = None, *, prevent_thread_lock: bool = False, **options: Any
) -> Served | None:
    """Serve a chat page, or one with two boxes for a model that completes text, until it is interrupted.

    Args:
        said: an `AppUIArguments`, an `InferArguments`, a list of command-line words, or None for `sys.argv`.
        prevent_thread_lock: return while the page is served: its `url` says where, its `close()` ends it.
        options: single options by name, over `said`.

    Raises:
        MissingPackageError: gradio is not installed.
        ConfigError: the page would be open to others without a password.
        UnavailableError: the port is in use.
    """
    args = upcast(said, **options)
    passwords, words = read_access(args), choose_words(args.lang)
    chat_page = load_page()
    with listen(args.host, args.port) as listening:
        decided, source = find_decided(merged(args))
        assert isinstance(decided, AppUIArguments)
        template = load_template(replace(decided, max_length=-1), source)
        answers = Answers(decided, load_tuned_model(decided, source), template, words)
        page = chat_page.build(answers, *title(decided, source, words))
        served = chat_page.Served(page, answers, listening.dup(), passwords, known_hosts(args))
    logger.info(f"chat on {served.url} (Ctrl-C ends it)")
    if args.share:
        logger.info(f"public link: {served.share()}")
    if prevent_thread_lock:
        return served
    try:
        served.wait()
    finally:
        served.close()
    return None


def upcast(said: InferArguments | list[str] | None, **options: Any) -> AppUIArguments:
    """The options for a page; what is said and does nothing here is named in a line."""
    args = tidy(read_arguments(AppUIArguments, said, **options))
    if isinstance(said, InferArguments) and not isinstance(said, AppUIArguments) and "seed" not in options:
        args = replace(args, seed=None if said.seed == InferArguments().seed else said.seed)
    plain = AppUIArguments()
    unused = [f"--{name}" for name in NOT_USED if getattr(args, name) != getattr(plain, name)]
    if unused:
        logger.warning(f"the chat page has no use for {', '.join(unused)}")
    nothing = {name: getattr(plain, name) for name in NOT_USED}
    return replace(args, **nothing, eval_human=True, load_dataset_config=False)


def merged(args: AppUIArguments) -> AppUIArguments:
    """The options with the merged model in place of the checkpoint, where `--merge_lora` asks for it."""
    return replace(args, ckpt_dir=merge_lora(args), merge_lora=False) if args.merge_lora else args


def load_page() -> ModuleType:
    """The module that needs gradio.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    try:
        from swift.ui import chat_page
    except ModuleNotFoundError as error:
        missing = f"the chat page needs gradio ({error.name} is missing)"
        raise MissingPackageError("PACKAGE-01", missing, fix="pip install 'swift-finetune[ui]'") from None
    return chat_page


def title(args: AppUIArguments, source: ModelSource, words: Words) -> tuple[str, list[str]]:
    """The model's name, and what else identifies what answers; no more of a path than tells runs apart."""
    name, which = args.model_type or source.name, words.base_model
    if args.ckpt_dir:
        directory = Path(args.ckpt_dir)
        name = args.model_type or Path(read_saved(directory).get("model_id_or_path") or source.name).name
        which = f"{words.checkpoint} {'/'.join(directory.parts[-2:])}"
    return name, [which, str(args.template_type), args.dtype, detect_hardware().accelerator or "cpu"]

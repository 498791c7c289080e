"""`swift app-ui`: a page in the browser to chat with a model or checkpoint, and with adapters beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swift.arguments.app_ui import AppUIArguments
from swift.arguments.deploy import DeployArguments
from swift.arguments.infer import InferArguments
from swift.arguments.reading import read_arguments
from swift.commands.infer import tools_of
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_decided, load_template, load_tuned_model, read_saved
from swift.decide import tidy
from swift.errors import ConfigError, MissingPackageError
from swift.log import get_logger
from swift.models.load import detect_hardware
from swift.models.source import ModelSource
from swift.serving.adapters import DEFAULT, Adapters
from swift.ui.answers import Answers
from swift.ui.serving import known_hosts, listen, read_access
from swift.ui.words import Words, choose_words

if TYPE_CHECKING:
    from swift.ui.server import Served

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
    return serve(upcast(said, **options), None, prevent_thread_lock=prevent_thread_lock)


def gradio_chat_demo(
    said: InferArguments | list[str] | None = None, *, prevent_thread_lock: bool = False, **options: Any
) -> Served | None:
    """`app_ui_main` for a model that chats.

    Raises:
        ConfigError: the template completes text, and has no conversations.
    """
    return serve(upcast(said, **options), False, prevent_thread_lock=prevent_thread_lock)


def gradio_generation_demo(
    said: InferArguments | list[str] | None = None, *, prevent_thread_lock: bool = False, **options: Any
) -> Served | None:
    """`app_ui_main` with a box for a text and one in which the model goes on, whatever the template."""
    return serve(upcast(said, **options), True, prevent_thread_lock=prevent_thread_lock)


def serve(args: AppUIArguments, completes: bool | None, *, prevent_thread_lock: bool) -> Served | None:
    """Serve the page that `args` ask for; `completes` None leaves the kind of page to the template."""
    passwords, words, tools = read_access(args), choose_words(args.lang), tools_of(args.tools)
    server, page = load_page()
    with listen(args.host, args.port) as listening:
        decided, source = find_decided(merged(args))
        assert isinstance(decided, AppUIArguments)
        template = load_template(replace(decided, max_length=-1), source)
        if template.generation and completes is False:
            what = f"--template_type {decided.template_type} completes text"
            raise ConfigError("CONFIG-02", what, fix="gradio_generation_demo, or another --template_type")
        name, describe = title(decided, source)
        adapters = find_adapters(decided, name, load_tuned_model(decided, source))
        answers = Answers(decided, adapters.model, template, names(adapters, decided), tools)
        blocks = page.build(
            answers, name, describe, words, completes=template.generation if completes is None else completes
        )
        served = server.Served(blocks, answers, listening.dup(), passwords, known_hosts(args), words)
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


def load_page() -> tuple[ModuleType, ModuleType]:
    """The modules that need gradio: the server and the page.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    try:
        from swift.ui import page, server
    except ModuleNotFoundError as error:
        missing = f"the chat page needs gradio ({error.name} is missing)"
        raise MissingPackageError("PACKAGE-01", missing, fix="pip install 'swift-finetune[ui]'") from None
    return server, page


def find_adapters(args: AppUIArguments, base: str, model: Any) -> Adapters:
    """The model with its adapters, as `swift deploy` has them."""
    return Adapters(
        DeployArguments(lora_modules=args.lora_modules, allow_other_base=args.allow_other_base), base, model
    )


def names(adapters: Adapters, args: AppUIArguments) -> dict[str, str | None]:
    """What visitors choose from, and what each is in the model: the checkpoint's adapter has the checkpoint's name."""
    checkpoint = short_name(args.ckpt_dir) if args.ckpt_dir else DEFAULT
    return {checkpoint if name == DEFAULT else name: inside for name, inside in adapters.adapters.items()}


def short_name(directory: str) -> str:
    """No more of a path than tells runs apart."""
    return "/".join(Path(directory).parts[-2:])


def title(args: AppUIArguments, source: ModelSource) -> tuple[str, Callable[[Words], list[str]]]:
    """The model's name, and what else identifies what answers, in a language."""
    name = args.model_type or source.name
    if args.ckpt_dir and not args.model_type:
        name = Path(read_saved(Path(args.ckpt_dir)).get("model_id_or_path") or source.name).name
    facts = [str(args.template_type), args.dtype, detect_hardware().accelerator or "cpu"]

    def describe(words: Words) -> list[str]:
        which = f"{words.checkpoint} {short_name(args.ckpt_dir)}" if args.ckpt_dir else words.base_model
        return [which, *facts]

    return name, describe

"""The template of a training as a chat template, so that other engines write conversations as it did."""

from __future__ import annotations

from pathlib import Path

from swift import storage
from swift.arguments.export import ExportArguments
from swift.commands.chosen import from_checkpoint, load_plugins
from swift.commands.prepare import find_source, load_template
from swift.decide import decide_template, tidy
from swift.errors import DataError, UsageError
from swift.log import get_logger
from swift.templates.publish import settle_chat_template

logger = get_logger()
FILE = "chat_template.jinja"


def to_hf_template(args: ExportArguments) -> str:
    """Write `chat_template.jinja` into the checkpoint or merged model; return its directory.

    Raises:
        UsageError: no checkpoint is named.
        DataError: no chat template writes what the template does.
    """
    if args.ckpt_dir is None:
        raise UsageError("USAGE-03", "--to_hf_template needs a checkpoint", fix="--ckpt_dir <run>/checkpoint-<step>")
    args = from_checkpoint(tidy(args))
    load_plugins(args.custom_register_path)
    source = find_source(args)
    args.template_type = decide_template("auto" if args.chat_template else args.template_type, source)
    template = load_template(args, source)
    if not settle_chat_template(template) or not isinstance(template.tokenizer.chat_template, str):
        fix = f"swift template check --model_id_or_path {source.path} --template_type {args.template_type} shows where"
        raise DataError("TEMPLATE-01", f"no chat template writes what template {template.name!r} does", fix=fix)
    directory = Path(str(args.ckpt_dir))
    storage.rewrite(directory, FILE, template.tokenizer.chat_template.encode("utf-8"))
    logger.info(f"template {template.name!r} as a chat template: {directory / FILE}")
    return str(directory)

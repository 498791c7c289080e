"""`swift export --from_sharded`: a checkpoint's shards as an ordinary model directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift import checkpoint, storage
from swift.arguments.export import ExportArguments
from swift.commands.replacing import check_gives_way
from swift.errors import DataError, NotFoundError, OutputError
from swift.log import get_logger
from swift.models.files import check_tokenizer, read_config
from swift.models.outline import outline_model
from swift.models.remote_code import check_remote_code
from swift.models.source import ModelSource
from swift.trainers import sharded

logger = get_logger()
OF_TRAINING = ("manifest.json", "trainer_state.json", "scheduler.pt", "scaler.pt")


def unshard(args: ExportArguments) -> str:
    """Write the model of a checkpoint in shards as `from_pretrained` reads it; return where.

    Its weights are put together in main memory, in one process.

    Raises:
        NotFoundError: there is no such checkpoint.
        DataError: it is damaged, holds no shards, or not all of the model.
        OutputError: the output exists; `--replace_if_exists true` replaces it.
    """
    directory = Path(str(args.from_sharded)).expanduser().resolve()
    if not directory.is_dir():
        raise NotFoundError(
            "FOUND-01", f"--from_sharded {directory} is not a directory", fix="name a checkpoint-<step>"
        )
    if not checkpoint.weights_in_shards(directory):
        why = "adapters and models of other engines are ordinary files already"
        raise DataError("CKPT-01", f"{directory} holds no model in shards", why=why, fix="--ckpt_dir takes it as it is")
    checkpoint.check_weights(directory)
    output = Path(args.output_dir or f"{directory}-model").expanduser().resolve()
    if output.exists() and not args.replace_if_exists:
        raise OutputError("OUTPUT-01", f"{output} exists", fix="--replace_if_exists true, or another --output_dir")
    check_gives_way(output, directory)
    storage.sweep(output.parent, output.name)
    model = assemble(directory, args.trust_remote_code)
    with storage.staged_directory(output, {"base": str(directory)}) as stage:
        model.save_pretrained(str(stage))
        for path in directory.iterdir():
            rest = path.is_file() and path.name not in OF_TRAINING and not path.name.startswith("rng_state")
            if rest and not (stage / path.name).exists():
                shutil.copy2(path, stage)
        if (directory / "generation_config.json").is_file():
            shutil.copy2(directory / "generation_config.json", stage)
    logger.info(f"the model of {directory}: {output}")
    return str(output)


def assemble(directory: Path, trust_remote_code: bool = False) -> Any:
    """The model of a checkpoint in shards, whole, in main memory.

    Raises:
        DataError: a weight of the model is in no shard.
    """
    config = read_config(directory)
    check_tokenizer(directory)
    code = check_remote_code(directory, config, trust_remote_code, None)
    source = replace(ModelSource(directory.name, None, directory, config), code=code)
    weights = sharded.put_together(directory)
    dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    model = outline_model(source, dtype)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    lacking = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if lacking:
        what = f"{directory}: {len(lacking)} weights are in no shard: {', '.join(lacking[:3])}"
        raise DataError("CKPT-02", what, fix="take another checkpoint")
    return model

"""The small run that is killed, damaged and resumed: ours, and the same with transformers' Trainer and PEFT alone."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import extract_model_from_parallel
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.utils.data import Dataset
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.trainer_utils import get_last_checkpoint

from swift.datasets.pack import join
from swift.templates.collate import data_collator
from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from tests.tiny import tiny_model, tiny_tokenizer
from tests.trainers.rows import VOCAB, Rows

ENGINES = ("swift", "plain")
STEPS, SAVE_STEPS = 12, 2
LOG = "PROVE_LOG"  # names a file for the traceback of a run that failed
TOKENIZER = tiny_tokenizer()
TARGETS = ["q_proj", "v_proj", "down_proj"]


class Packs(Dataset):
    """Rows, so many one after another as one."""

    def __init__(self, rows: Rows, each: int) -> None:
        self.rows = [join([rows[k] for k in range(at, min(at + each, len(rows)))]) for at in range(0, len(rows), each)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def lora(dropout: float = 0.2, **config: Any) -> Any:
    torch.manual_seed(0)
    model = tiny_model(vocab_size=VOCAB, hidden=32, **config)
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=dropout, target_modules=TARGETS))


def full() -> Any:
    return tiny_model(vocab_size=VOCAB, hidden=32, attention_dropout=0.2)


def trainer_of(engine: str, out: Path, model: Any = None, rows: int = 21, **said: Any) -> Any:
    options = {
        "output_dir": str(out), "per_device_train_batch_size": 2, "max_steps": STEPS, "logging_steps": 1,
        "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": SAVE_STEPS, "save_total_limit": 2,
        "use_cpu": True, "disable_tqdm": True, "report_to": [], "remove_unused_columns": False, **said,
    }  # fmt: skip
    kind, arguments = (
        (Seq2SeqTrainer, Seq2SeqTrainingArguments)
        if engine == "swift"
        else (transformers.Trainer, transformers.TrainingArguments)
    )
    train = said.pop("train", None) or Rows(rows)
    options.pop("train", None)
    model = lora() if model is None else model
    return kind(
        model=model,
        args=arguments(**options),
        train_dataset=train,
        data_collator=partial(data_collator, tokenizer=TOKENIZER),
    )


def go(engine: str, out: Path, resume: Path | str | None = None, **said: Any) -> None:
    """Train to the end; `auto` goes on from the newest checkpoint there is, however the engine finds it."""
    run = trainer_of(engine, out, **said)
    if resume == "auto" and engine == "plain":
        resume = get_last_checkpoint(str(out)) if out.is_dir() else None
    run.train(resume_from_checkpoint=str(resume) if resume else None)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def weights_of(checkpoint: Path) -> str | None:
    """The digest of the tensors of a checkpoint, None where they cannot be read."""
    files = sorted(checkpoint.glob("*.safetensors"))
    try:
        tensors = {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError):
        return None
    return hashlib.sha256(save(tensors)).hexdigest() if tensors else None


@cache
def warm() -> None:
    """Import what the libraries import when a model is tuned and saved, and count none of it as garbage."""
    extract_model_from_parallel(lora())
    get_model_conversion_mapping(full())
    gc.collect()
    gc.freeze()


def fork(work: Callable[[], object]) -> int:
    """Do something in a child of this process, which has everything imported already; return its id."""
    warm()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        if LOG in os.environ:
            Path(os.environ[LOG]).write_text(traceback.format_exc())
    finally:
        os._exit(code)


def group(world: int, work: Callable[[], object]) -> list[int]:
    """Do something in as many children, which are to train together; their ids by rank. One child is on its own."""
    if world == 1:
        return [fork(work)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(world):
        said = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        os.environ.update(said)
        children.append(fork(work))
        for name in said:
            del os.environ[name]
    return children


def finished(work: Callable[[], object], world: int = 1) -> bool:
    """Whether something came to its end in a child, or in each of a group."""
    return [ended(child) for child in group(world, work)] == [0] * world


def ended(child: int) -> int:
    """How a child ended: its exit code, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def place() -> Any:
    """An empty directory that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="prove-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)

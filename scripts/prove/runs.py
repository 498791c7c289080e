"""The small run that is killed, damaged and resumed: ours, and the same with transformers' Trainer and PEFT alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers.trainer_utils import get_last_checkpoint

from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, Rows, collate

ENGINES = ("swift", "plain")
STEPS, SAVE_STEPS = 12, 2
LOG = "PROVE_LOG"  # names a file for the traceback of a run that failed
TARGETS = ["q_proj", "v_proj", "down_proj"]


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
    return kind(model=model, args=arguments(**options), train_dataset=train, data_collator=collate)


def go(engine: str, out: Path, resume: Path | str | None = None, **said: Any) -> None:
    """Train to the end; `auto` goes on from the newest checkpoint there is, however the engine finds it."""
    run = trainer_of(engine, out, **said)
    if resume == "auto" and engine == "plain":
        resume = get_last_checkpoint(str(out)) if out.is_dir() else None
    run.train(resume_from_checkpoint=str(resume) if resume else None)


def weights_of(checkpoint: Path) -> str | None:
    """The digest of the tensors of a checkpoint, None where they cannot be read."""
    files = sorted(checkpoint.glob("*.safetensors"))
    try:
        tensors = {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError):
        return None
    return hashlib.sha256(save(tensors)).hexdigest() if tensors else None


def fork(work: Callable[[], object]) -> int:
    """Do something in a child of this process, which has everything imported already; return its id."""
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


def finished(work: Callable[[], object]) -> bool:
    """Whether something came to its end in a child."""
    return ended(fork(work)) == 0


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

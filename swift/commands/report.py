"""What a training run leaves behind in words and numbers: saved options, the account of rows, the final report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from swift import checkpoint, dist, storage
from swift.arguments.fields import to_json
from swift.arguments.sft import SftArguments
from swift.datasets.ledger import Ledger
from swift.log import get_logger
from swift.redact import redact
from swift.trainers.arguments import Seq2SeqTrainingArguments
from swift.trainers.predicting import GEN_LEN, GEN_TIME
from swift.trainers.trainer import Seq2SeqTrainer

logger = get_logger()


def save_arguments(args: SftArguments, training: Seq2SeqTrainingArguments, ledger: Ledger) -> None:
    """Write the options, the trainer's arguments and the account of rows into the run's directory."""
    if dist.is_main():
        run = Path(args.output_dir)
        storage.write_json(run / "sft_args.json", to_json(args), private=True)
        storage.write_json(run / "training_args.json", redact(training.to_dict()), private=True)
        storage.write_json(run / "data_report.json", ledger.to_json())


def write_report(args: SftArguments, trainer: Seq2SeqTrainer, ledger: Ledger) -> dict[str, Any]:
    """The report of a finished run; also the last line of `logging.jsonl`, and the pictures in `images/`.

    Keys: last_model_checkpoint, best_model_checkpoint (the last one without evaluation), best_metric (eval loss, or
    rouge-l with --predict_with_generate; None without evaluation), global_step, memory, train_time, log_history,
    model_info, dataset_info; with --predict_with_generate gen_len and gen_time of the last evaluation.
    """
    state, model = trainer.state, trainer.model
    assert model is not None
    run = Path(args.output_dir)
    resumed = None if args.resume_only_model else args.resume_from_checkpoint
    others = not dist.is_main()  # one process checks the checkpoint and tidies up
    last = checkpoint.latest(run, fast=others, look_only=others) or resumed  # None is new where a run was over before
    best = state.best_model_checkpoint or (str(last) if last else None)
    report = {
        "last_model_checkpoint": str(last) if last else None,
        "best_model_checkpoint": best,
        "best_metric": state.best_metric,
        "global_step": state.global_step,
        "memory": _memory(),
        "train_time": _train_time(state.log_history, ledger),
        "log_history": state.log_history,
        "model_info": describe_model(model),
        "dataset_info": ledger.to_json(),
        **_generated(state.log_history),
    }
    if dist.is_main():
        from swift.trainers.plots import plot_log  # with it matplotlib, for which no run should wait to begin

        storage.append_jsonl(run / "logging.jsonl", report)
        storage.write_json(run / "data_report.json", report["dataset_info"])
        plot_log(state.log_history, run / "images")
        logger.info(f"last checkpoint: {report['last_model_checkpoint']}")
        logger.info(f"best checkpoint: {report['best_model_checkpoint']}")
    return report


def describe_model(model: torch.nn.Module) -> str:
    """One line: parameters, how many train, and buffers, in millions."""
    sizes = [(vars(p).get("ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]  # ZeRO-3 leaves none
    total = sum(size for size, _ in sizes) / 1e6
    trainable = sum(size for size, trains in sizes if trains) / 1e6
    buffers = sum(b.numel() for b in model.buffers()) / 1e6
    share = 100 * trainable / max(total, 1e-9)
    return (
        f"{type(model).__name__.removeprefix('FSDP')}: {total:.4f}M parameters "
        f"({trainable:.4f}M trainable [{share:.4f}%]), {buffers:.4f}M buffers"
    )


def _memory() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {}
    used = sum(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count()))  # needs-cuda
    return {"cuda": f"{used / 2**30:.2f}GiB"}  # needs-cuda


def _generated(log_history: list[dict[str, Any]]) -> dict[str, float]:
    """How long answers were at the last evaluation, in tokens, and how many seconds they took; {} without any."""
    last = next((entry for entry in reversed(log_history) if f"eval_{GEN_LEN}" in entry), {})
    return {name: last[f"eval_{name}"] for name in (GEN_LEN, GEN_TIME)} if last else {}


def _train_time(log_history: list[dict[str, Any]], ledger: Ledger) -> dict[str, Any]:
    summary = next((entry for entry in reversed(log_history) if "train_runtime" in entry), {})
    return {
        "train_runtime": summary.get("train_runtime"),
        "n_train_samples": ledger.trained,
        "train_samples_per_second": summary.get("train_samples_per_second"),
    }

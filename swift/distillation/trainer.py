"""The trainer that learns from a teacher: the road of `Seq2SeqTrainer` with the divergence from it as the loss.

The loss of an optimiser step is the sum over its supervised tokens, of every process and every accumulated batch,
divided by their number. Whose answers they are is drawn for a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from swift.distillation.answers import Writer, draw, rows_of, seed_of
from swift.distillation.divergence import HeadDivergence, Settings, TeacherLoss
from swift.distillation.teacher import Teacher
from swift.errors import ConfigError
from swift.trainers import saving
from swift.trainers.head import HeadLoss, find_head_loss
from swift.trainers.loss import cross_entropy
from swift.trainers.trainer import Seq2SeqTrainer


@dataclass(frozen=True)
class Answers:
    """Whose answers are learnt from.

    Attributes:
        own: the share of steps in which the model that learns writes them.
        teacher: whether the teacher writes those of the other steps, in place of the data.
        writer: how.
    """

    own: float
    teacher: bool
    writer: Writer

    @property
    def written(self) -> bool:
        """Whether any are."""
        return self.own > 0 or self.teacher


class DistillationTrainer(Seq2SeqTrainer):
    """Trains a causal language model, whole or through a tuner, to say what its teacher would.

    Args:
        args: as those of `Seq2SeqTrainer`.
        teacher: who is learnt from.
        settings: how the two are compared.
        answers: whose answers that is done on.
        options: the other arguments of `Seq2SeqTrainer`.
    """

    places_batches = False

    def __init__(self, *args: Any, teacher: Teacher, settings: Settings, answers: Answers, **options: Any) -> None:
        self.teacher, self.settings, self.answers = teacher, settings, answers
        self.divergence = TeacherLoss(settings)
        super().__init__(*args, compute_loss_func=self.divergence, **options)
        if answers.written and self.template is None:
            raise ConfigError("CONFIG-02", "answers are written with a template", fix="template=get_template(...)")
        teacher.place(self.args.device)

    @cached_property
    def _run(self) -> dict[str, Any]:
        writer = self.answers.writer
        said = {"lmbda": self.answers.own, "seq_kd": self.answers.teacher, **asdict(self.settings)}
        sampling = writer.config.to_diff_dict() if self.answers.written else None
        return {**super()._run, "rlhf_type": "gkd", **said, "sampling": sampling, "teacher": self.teacher.told()}

    @cached_property
    def _head_loss(self) -> HeadDivergence | None:
        """The divergence in chunks, where the model is of the kind."""
        if not self.args.fused_cross_entropy:
            return None
        found = find_head_loss(saving.base_of(self.model), cross_entropy)
        return HeadDivergence(found.head, found.rule, self.divergence) if isinstance(found, HeadLoss) else None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As that of `Seq2SeqTrainer`, after the teacher was asked."""
        with self.compute_loss_context_manager():
            self.divergence.said = self.teacher.says(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Tensor | None:
        """As that of `Seq2SeqTrainer`, after the answers of a step that trains were written, where they are."""
        if batch_samples and self.answers.written and not self._evaluating:
            self._write(batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)

    def _write(self, batches: Sequence[dict[str, Any]]) -> None:
        """Put written answers in place of those of the data, where it is the step for that."""
        assert self.template is not None, "checked when the trainer was made"
        seed, step = self.args.seed, self.state.global_step
        own = draw(seed, step) < self.answers.own
        if not own and not self.answers.teacher:
            return
        who: Any = self.accelerator.unwrap_model(self.model) if own else self.teacher.model
        split = [rows_of(batch) for batch in batches]
        places = self._places([len(rows) for rows in split])
        with self.heartbeat.pause():
            rows = [row for part in split for row in part]
            seeds = [seed_of(seed, step, place) for place in places]
            written = iter(self.answers.writer.answered(who, self.template, rows, seeds))
            self.accelerator.wait_for_everyone()
        collate = self._training_collator()
        for batch, part in zip(batches, split, strict=True):
            made: Any = self._prepare_inputs(collate([next(written) for _ in part]))
            batch.clear()
            batch.update(made)

    def _places(self, sizes: Sequence[int]) -> list[int]:
        """Where in the step the rows of this process's batches stand: batches are dealt to the processes in turn."""
        shares, own = self.share
        size = self.args.train_batch_size
        return [(k * shares + own) * size + row for k, count in enumerate(sizes) for row in range(count)]

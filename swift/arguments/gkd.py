"""Options of `swift rlhf --rlhf_type gkd`: a model learns from a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

GROUP = "Distillation"


@dataclass(kw_only=True)
class DistillationOptions:
    """Who teaches, how the two are compared, and whose answers it is done on."""

    teacher_model: str | None = option(
        None,
        group=GROUP,
        help="The model to learn from: a directory, or an id on the hub. It has the same tokens.",
        none="gkd needs one",
    )
    teacher_model_revision: str | None = option(
        None, group=GROUP, help="A branch, tag or commit of the teacher.", none="the newest"
    )
    teacher_adapters: str | None = option(
        None, group=GROUP, help="A checkpoint with adapters that the teacher wears.", none="the teacher as it is"
    )
    distill_temperature: float = option(
        1.0,
        group=GROUP,
        minimum=1e-3,
        help="What the logits of both are divided by before they are compared; above 1 unlikely tokens count more.",
    )
    lmbda: float = option(
        0.5,
        group=GROUP,
        minimum=0,
        maximum=1,
        help="The share of steps whose answers the model that learns writes itself, to be corrected by the teacher.",
    )
    seq_kd: bool = option(
        False, group=GROUP, help="In the other steps the teacher writes the answers, in place of those of the data."
    )

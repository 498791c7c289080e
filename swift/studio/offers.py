"""Which options of which commands come first in the studio's forms."""

from __future__ import annotations

from swift.arguments.eval import EvalArguments
from swift.arguments.export import ExportArguments
from swift.arguments.pt import PtArguments
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.studio.form import Field, Form

MODEL = ("model_type", "model_id_or_path")
TUNER = ("sft_type", "lora_rank", "lora_alpha", "lora_target_modules")
SIZES = ("max_length", "batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "learning_rate")
TRAINING = (*SIZES, "eval_steps", "logging_steps", "gradient_checkpointing", "packing")
NEEDS = (MODEL[::-1], ("dataset",))
LOADED = ("ckpt_dir", "adapters", "from_sharded", *MODEL)
"""Options by which a page says which model is meant."""
TRAIN = {
    "sft": Form(
        "sft",
        SftArguments,
        NEEDS,
        {
            "model": MODEL,
            "data": ("dataset", "val_dataset", "model_name", "model_author", "system"),
            "tuner": TUNER,
            "training": TRAINING,
        },
    ),
    "pt": Form(
        "pt",
        PtArguments,
        NEEDS,
        {"model": MODEL, "data": ("dataset", "val_dataset", "text_unit"), "tuner": TUNER, "training": TRAINING},
    ),
    "rlhf": Form(
        "rlhf",
        RLHFArguments,
        NEEDS,
        {
            "model": MODEL,
            "data": ("dataset", "val_dataset", "system"),
            "preference": ("rlhf_type", "beta", "loss_type"),
            "tuner": TUNER,
            "training": TRAINING,
        },
    ),
}
"""By command, the forms to train with."""
EXPORT = Form(
    "export",
    ExportArguments,
    (),
    {
        "merge": ("merge_lora", "replace_if_exists", "to_gguf", "to_hf_template"),
        "quantise": ("quant_bits", "quant_method", "dataset", "quant_n_samples"),
    },
    without=LOADED,
)
EVALUATE = Form(
    "eval",
    EvalArguments,
    (("eval_dataset", "dataset", "val_dataset", "load_dataset_config"),),
    {"metrics": ("eval_dataset", "eval_metrics", "eval_limit", "eval_few_shot", "max_new_tokens", "with_base")},
    without=LOADED,
)
SECTIONS = ("model", "data", "preference", "tuner", "training")


def all_fields() -> dict[str, Field]:
    """Every option of any kind of training, by name; of an option that several have, the first one's."""
    found: dict[str, Field] = {}
    for form in TRAIN.values():
        found |= {name: field for name, field in form.fields.items() if name not in found}
    return found


def all_sections() -> dict[str, list[str]]:
    """The options that come first in any kind of training, by section."""
    found: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for form in TRAIN.values():
        known = {name for names in found.values() for name in names}
        for section, names in form.basic.items():
            found[section] += [name for name in names if name not in known]
    return found


def all_groups() -> dict[str, list[Field]]:
    """All other options, by topic."""
    first = {name for names in all_sections().values() for name in names}
    groups: dict[str, list[Field]] = {}
    for field in all_fields().values():
        if field.name not in first:
            groups.setdefault(field.info.group, []).append(field)
    return groups

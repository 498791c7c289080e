"""Which options of which commands come first in the studio's forms."""

from __future__ import annotations

from swift.arguments.export import ExportArguments
from swift.arguments.sft import SftArguments
from swift.studio.form import Form

SIZES = ("max_length", "batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "learning_rate")
TRAIN = {
    "sft": Form(
        "sft",
        SftArguments,
        (("model_id_or_path", "model_type"), ("dataset",)),
        {
            "model": ("model_type", "model_id_or_path"),
            "data": ("dataset", "val_dataset", "model_name", "model_author", "system"),
            "tuner": ("sft_type", "lora_rank", "lora_alpha", "lora_target_modules"),
            "training": (*SIZES, "eval_steps", "logging_steps", "gradient_checkpointing", "packing"),
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
    without=("ckpt_dir", "adapters", "from_sharded", "model_id_or_path", "model_type"),
)

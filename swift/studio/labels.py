"""What options are called on the pages; in Chinese their sentences too, where one is written here."""

from __future__ import annotations

from swift.studio.form import Field

CHINESE: dict[str, str] = {
    "model_type": "已注册的模型名称。",
    "model_id_or_path": "模型目录，或模型库中的 id。",
    "dataset": "数据集：文件、目录、通配、已注册名称或模型库 id；`x#500` 表示抽取 500 条。",
    "val_dataset": "用于评测的数据集；指定后不再从训练数据中切分。",
    "model_name": "模型要学会的名字（用于 self-cognition），先中文后英文。",
    "model_author": "模型要学会的作者（用于 self-cognition），先中文后英文。",
    "system": '系统提示词；`""` 表示不用。',
    "sft_type": "训练什么：full 为全部参数，其余为各种微调方法。",
    "lora_rank": "LoRA 更新矩阵的秩 r。",
    "lora_alpha": "更新的缩放：乘以 alpha / r。",
    "lora_target_modules": "作用于哪些层：DEFAULT、ALL、EMBEDDING、模块名或一个正则表达式。",
    "max_length": "单条数据的最大词元数；-1 表示不限。",
    "batch_size": "每个进程每步的条数。",
    "gradient_accumulation_steps": "累积多少个批次后更新一次。",
    "num_train_epochs": "遍历数据的轮数。",
    "max_steps": "训练的步数；-1 表示按轮数计算。",
    "learning_rate": "最大学习率。",
    "eval_steps": "每隔多少步评测一次。",
    "logging_steps": "每隔多少步记录一次。",
    "gradient_checkpointing": "重算激活以节省显存。",
    "packing": "把多条短数据拼成 max_length 长的整包，彼此互不可见。",
    "merge_lora": "把 LoRA 合并进模型。",
    "replace_if_exists": "已有合并结果时重新写入。",
    "to_gguf": "另存为一个 GGUF 文件，供 Ollama 等使用。",
    "to_hf_template": "把训练所用模板写成对话模板。",
    "quant_bits": "每个权重的比特数；0 表示不量化。",
    "quant_method": "量化方法；gptq 和 awq 需要数据。",
    "quant_n_samples": "量化时查看的数据条数。",
    "eval_dataset": "用于评测的数据集。",
    "eval_metrics": "要计算的指标；留空则计算全部适用的指标。",
    "eval_limit": "每个数据集最多评测的条数。",
    "with_base": "先评测未微调的模型，以便对比。",
}
GROUPS = {
    "Model": "模型",
    "Data": "数据",
    "Tuner": "微调方法",
    "Optimisation": "优化",
    "Output": "评测、检查点与日志",
    "Workers": "进程与并行",
    "Quantised base": "量化的基础模型",
    "Full training": "全参数训练",
    "Virtual tokens": "虚拟词元",
    "Quantise": "量化",
    "Merge": "合并",
    "Convert": "转换",
    "Checkpoint": "检查点",
    "Generation": "生成",
    "Evaluation": "评测",
}


def label_of(field: Field, language: str) -> tuple[str, str]:
    """An option's name, and its sentence with its unit; a list of choices also says what it does when none is."""
    told = CHINESE.get(field.name, field.info.help) if language == "zh" else field.info.help
    default = ("默认: " if language == "zh" else "default: ") + (field.info.none or "")
    facts = [field.info.unit or "", default if field.widget != "text" and field.info.none else ""]
    return field.name, f"{told} [{'; '.join(filter(None, facts))}]" if any(facts) else told


def group_of(name: str, language: str) -> str:
    """A group's heading."""
    return GROUPS.get(name, name) if language == "zh" else name


def matches(field: Field, language: str, text: str) -> bool:
    """Whether every word of a search is in the option's name, heading or sentence."""
    said = " ".join(
        [field.name, field.name.replace("_", " "), field.info.group, field.hint, *label_of(field, language)]
    )
    return all(word in said.lower() for word in text.lower().split())

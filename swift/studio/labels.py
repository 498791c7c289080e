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
    "model_revision": "模型库上的分支、标签或提交。",
    "dtype": "权重精度；AUTO 在 CPU 上为 fp32，否则为 bf16 或 fp16。",
    "use_flash_attn": "使用 flash-attention 2；需要相应的包和 GPU。",
    "new_special_tokens": "要加入词表的词元，或每行一个的文件。",
    "device_map": "单个进程中模型各部分放在哪里：auto、cpu、balanced、sequential 或 JSON 文件。",
    "quantization_bit": "以多少比特加载基础模型；0 表示不量化。",
    "dataset_test_ratio": "从每个数据集切出用于评测的比例。",
    "dataset_seed": "抽样与切分的随机种子。",
    "columns": "识别格式前要改名的列，写作 `原名=新名`。",
    "max_bad_rows": "最多舍弃多少条读不了的数据，逐条列出；-1 表示不限。",
    "template_type": "对话模板名称；`auto` 为分词器自带，AUTO 为已注册的。",
    "chat_template": "用作分词器对话模板的 Jinja 文件。",
    "tools_prompt": "工具、调用及其结果的书写格式。",
    "truncation_strategy": "过长的数据如何处理：舍弃并计数，或截断。",
    "lazy_tokenize": "训练取用时才编码每条数据，而不是事先全部编码。",
    "data_cache": "保留编码结果，下次使用相同数据时立即开始。",
    "preprocess_num_proc": "编码数据的进程数。",
    "interleave": "让多个数据集轮流出现，而不是一个接一个。",
    "streaming": "边训练边读取和编码，内存占用恒定；需要 max_steps。",
    "loss_scale": "学习什么：default 为每个回答，last_round 为最后一个，all 连同提问。",
    "tuner": "同时使用多种微调方法，代替 sft_type，例如 `lora:rank=8,targets=ALL adapter:length=64`。",
    "tuner_backend": "由谁实现微调方法：peft、swift 或 unsloth（需要 GPU）。",
    "lora_dropout_p": "训练时 A 之前的 dropout。",
    "lora_modules_to_save": "完整训练并整体保存的模块：名称、EMBEDDING 或 LN。",
    "lora_dtype": "A 和 B 的精度。",
    "lora_lr_ratio": "LoRA+：B 与 A 的学习率之比。",
    "use_rslora": "按 alpha / sqrt(r) 缩放（rsLoRA）。",
    "use_dora": "分别训练大小和方向（DoRA）。",
    "init_lora_weights": "A 和 B 的初始化方式。",
    "neftune_noise_alpha": "NEFTune：训练时加到词向量上的噪声。",
    "max_tokens_per_batch": "每个批次的最大词元数，代替固定条数。",
    "group_by_length": "把长度相近的数据放在同一批次。",
    "lr_scheduler_type": "学习率的变化方式。",
    "warmup_ratio": "学习率上升阶段所占的比例。",
    "warmup_steps": "学习率上升阶段的步数。",
    "optim": "优化器。",
    "weight_decay": "AdamW 的权重衰减。",
    "max_grad_norm": "梯度范数超过该值时按比例缩小；0 表示关闭。",
    "seed": "初始化、dropout 和数据顺序的随机种子。",
    "full_determinism": "只用确定性的计算：较慢，但在 GPU 上可重复。",
    "evaluation_strategy": "何时评测。",
    "eval_batch_size": "评测时每个进程的条数。",
    "save_strategy": "何时保存检查点。",
    "save_steps": "每隔多少步保存检查点。",
    "save_total_limit": "保留多少个检查点：最好的和最后的；-1 表示全部。",
    "save_only_model": "不保存优化器等状态：更小，但不能继续训练。",
    "early_stopping_patience": "连续多少次评测没有更好就停止。",
    "report_to": "向哪些工具报告。",
    "deepspeed": "使用 DeepSpeed：default-zero2、default-zero3 等，或 JSON 文件。",
    "fsdp": "把模型切成与进程数相同的份数（FSDP2）。",
    "tensor_parallel_size": "把每一层切到多少个进程上。",
    "dataloader_num_workers": "准备批次的进程数；0 表示没有。",
    "max_restarts": "进程死亡或停滞后，从最后的检查点重启的次数。",
    "text_unit": ".txt 文件中一篇文档是什么：一行、空行之间的部分，或整个文件。",
    "rlhf_type": "偏好学习的方法。",
    "beta": "对数概率的变化有多重要；对 ORPO 为几率比的权重。",
    "loss_type": "该方法的损失函数。",
    "eval_few_shot": "每个问题之前展示数据集的前几条作为示例；这些不再提问。",
    "max_new_tokens": "回答的最大词元数。",
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
    if language == "zh" and field.name in CHINESE:
        return field.name, CHINESE[field.name]
    default = f"default: {field.info.none}" if field.widget != "text" and field.info.none else ""
    facts = "; ".join(filter(None, [field.info.unit, default]))
    return field.name, f"{field.info.help} [{facts}]" if facts else field.info.help


def group_of(name: str, language: str) -> str:
    """A group's heading."""
    return GROUPS.get(name, name) if language == "zh" else name


def matches(field: Field, language: str, text: str) -> bool:
    """Whether every word of a search is in the option's name, heading or sentence."""
    said = " ".join(
        [field.name, field.name.replace("_", " "), field.info.group, field.hint, *label_of(field, language)]
    )
    return all(word in said.lower() for word in text.lower().split())

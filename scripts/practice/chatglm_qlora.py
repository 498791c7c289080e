"""QLoRA: a ChatGLM in 4 bits (nf4, scales quantised too), LoRA on its fused projection.

python scripts/practice/chatglm_qlora.py [DIRECTORY]
"""

from __future__ import annotations

import torch
from assets import place
from chatglm_rows import rows
from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import AutoModel, BitsAndBytesConfig, Trainer, TrainingArguments

from swift.llm import keep_unpacked, quiet_libraries

lora_rank = 4
lora_alpha = 32
lora_dropout = 0.05
resume_from_checkpoint = None

directory = place()
quiet_libraries()
keep_unpacked()  # new: before 4 bits are loaded on a CPU with AVX512-BF16, or gradients are wrong after an answer
tokenizer, tokenized_dataset, data_collator = rows(directory)

q_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.float16 if torch.cuda.is_available() else torch.float32,  # once: float16
)
model = AutoModel.from_pretrained(
    directory / "chatglm", quantization_config=q_config, device_map="auto", trust_remote_code=True
)
assert type(model).__name__ == "ChatGLMForConditionalGeneration"
weight = model.layers[0].self_attention.query_key_value.weight
assert weight.quant_type == "nf4"
assert weight.quant_state.nested
print(f"{model.get_memory_footprint() / 1024**2:.2f}MiB")

kbit_model = prepare_model_for_kbit_training(model)
target_modules = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING["chatglm"]
assert target_modules == ["query_key_value"]
lora_config = LoraConfig(
    target_modules=target_modules,
    r=lora_rank,
    lora_alpha=lora_alpha,
    lora_dropout=lora_dropout,
    bias="none",
    inference_mode=False,
    task_type=TaskType.CAUSAL_LM,
)
assert lora_config.task_type == "CAUSAL_LM"
qlora_model = get_peft_model(kbit_model, lora_config)
qlora_model.print_trainable_parameters()

training_args = TrainingArguments(
    output_dir=directory / "chatglm-qlora",
    per_device_train_batch_size=6,
    gradient_accumulation_steps=8,
    learning_rate=1e-3,
    num_train_epochs=4,  # 24 rows here
    lr_scheduler_type="linear",
    warmup_steps=0.1,  # once: warmup_ratio=0.1
    logging_steps=1,  # once: 100
    optim="adamw_torch",
    fp16=torch.cuda.is_available(),
    report_to="none",
)
trainer = Trainer(model=qlora_model, args=training_args, train_dataset=tokenized_dataset, data_collator=data_collator)
trainer.train(resume_from_checkpoint=resume_from_checkpoint)
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
assert losses[-1] < losses[0], losses
qlora_model.save_pretrained(directory / "chatglm-qlora")

"""LoRA on an OPT in 8 bits, trained on quotes with transformers' own trainer.

python scripts/practice/opt_lora.py [DIRECTORY]
"""

from __future__ import annotations

import torch
from assets import place
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    GPT2Tokenizer,
    OPTForCausalLM,
    Trainer,
    TrainingArguments,
)

from swift.llm import quiet_libraries, show_random_elements

directory = place()
model_id, save_path = directory / "opt", directory / "opt-lora"
quiet_libraries()
model = OPTForCausalLM.from_pretrained(model_id, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
tokenizer = GPT2Tokenizer.from_pretrained(model_id)

# All frozen, the rest in fp32, gradients into the embedding's output, activations computed twice.
model = prepare_model_for_kbit_training(model)
assert not any(parameter.requires_grad for parameter in model.parameters())
assert model.get_input_embeddings().weight.dtype == torch.float32
assert model.is_gradient_checkpointing

config = LoraConfig(
    r=8,
    lora_alpha=32,
    target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],  # OPT has no fc_in, no fc_out
    lora_dropout=0.05,
    bias="none",
    task_type="CAUSAL_LM",
)
model = get_peft_model(model, config)
model.print_trainable_parameters()

dataset = load_dataset("json", data_files=str(directory / "english_quotes.jsonl"))
print(dataset["train"])
show_random_elements(dataset["train"], num_examples=3)
tokenized_dataset = dataset.map(lambda samples: tokenizer(samples["quote"]), batched=True)
assert "quote" in tokenized_dataset["train"].column_names  # the trainer leaves it out
data_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)

training_args = TrainingArguments(
    output_dir=save_path,
    per_device_train_batch_size=4,
    learning_rate=2e-4,
    fp16=torch.cuda.is_available(),  # once: True; a CPU has no fp16 to train in
    logging_steps=20,
    max_steps=100,
    num_train_epochs=1,  # 100 steps go before one epoch
    report_to="none",
)
trainer = Trainer(
    model=model, train_dataset=tokenized_dataset["train"], args=training_args, data_collator=data_collator
)
model.config.use_cache = False  # once: model.use_cache = False
trainer.train()
assert trainer.state.global_step == 100
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
assert losses[-1] < losses[0], losses

model.save_pretrained(save_path)
assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in save_path.iterdir()}

inputs = tokenizer("Python is the best programming language.", return_tensors="pt").to(model.device)
out = trainer.model.generate(**inputs, max_length=50)
print(tokenizer.decode(out[0], skip_special_tokens=True))

"""An OPT in 8 bits that writes on, and the memory it takes.

python scripts/practice/opt_generate.py [DIRECTORY]
"""

from __future__ import annotations

from assets import place
from transformers import BitsAndBytesConfig, GPT2Tokenizer, OPTForCausalLM

from swift.llm import quiet_libraries, to_device

model_id = place() / "opt"
quiet_libraries()

# once: OPTForCausalLM.from_pretrained(model_id, load_in_8bit=True)
model = OPTForCausalLM.from_pretrained(model_id, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
tokenizer = GPT2Tokenizer.from_pretrained(model_id)
assert model.model.decoder.layers[0].fc1.weight.dtype.is_floating_point is False

text = "Python is the best programming language."
inputs = to_device(dict(tokenizer(text, return_tensors="pt")), model.device)  # once: .to(0)
outputs = model.generate(**inputs, max_length=50)
assert outputs.shape[1] <= 50
print("Generated Text:", tokenizer.decode(outputs[0], skip_special_tokens=True))

memory_footprint_bytes = model.get_memory_footprint()
print(f"{memory_footprint_bytes / 1024**3:.5f} GB")
print(model)

"""vLLM itself, where it can be imported, on a device that it knows (`vllm-cpu` serves, in an environment of its own)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from swift.arguments.infer import InferArguments
from swift.commands.prepare import prepare_model_template, prepare_vllm_engine_template
from swift.inference.answer import Reader
from swift.inference.constraint import JsonConstraint
from swift.inference.engine import Request
from swift.inference.generate import inference
from swift.inference.prompt import make_turn
from swift.inference.settings import prepare_generation_config
from swift.inference.vllm import LoRARequest, VllmGenerationConfig, inference_stream_vllm, inference_vllm
from tests.tiny import save_tiny

pytestmark = pytest.mark.slow
ROWS = [{"query": query} for query in ("hi", "What is the capital of France?", "one two three")]
GREEDY = VllmGenerationConfig(12, 0.0)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def plain(home: Path, **said: str) -> list[str]:
    prepared = prepare_model_template(InferArguments(model_id_or_path=str(home), dtype="fp32", **said))
    config = GenerationConfig(do_sample=False, max_new_tokens=12)
    return [inference(prepared.model, prepared.template, row["query"], generation_config=config)[0] for row in ROWS]


def test_vllm_answers_as_transformers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
        monkeypatch.setenv(name, value)
    home = save_tiny(tmp_path / "model", "llama", hidden=128, initializer_range=0.2)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(home), LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    )
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(tmp_path / "lora")
    args = InferArguments(
        model_id_or_path=str(home), dtype="fp32", enforce_eager=True, max_model_len=256, max_num_seqs=8,
        gpu_memory_utilization=0.3, vllm_enable_lora=True, vllm_max_lora_rank=8,
    )  # fmt: skip
    engine, template = prepare_vllm_engine_template(args)
    try:
        found = inference_vllm(engine, template, ROWS, generation_config=GREEDY)
        assert [each["response"] for each in found] == plain(home)
        *_, last = inference_stream_vllm(engine, template, ROWS, generation_config=GREEDY)
        assert last == found
        asked = LoRARequest("lora", 1, str(tmp_path / "lora"))
        beside = inference_vllm(engine, template, ROWS, generation_config=GREEDY, lora_request=asked)
        assert [each["response"] for each in beside] == plain(home, ckpt_dir=str(tmp_path / "lora"))
        said = GenerationConfig(max_new_tokens=60, do_sample=True, temperature=1.5, top_k=0)
        config = prepare_generation_config(engine.model, template, said)
        reader = Reader(template, config.eos_token_id)
        constraint = JsonConstraint(template.tokenizer, reader.stop_ids, SCHEMA)
        request = Request(
            make_turn(template, ROWS[0]).prompt_ids, config, reader, seed=5, logprobs=2, constraint=constraint.copy
        )
        answer = next(engine.model.engine.run([request]))
        assert reader.whole(answer.ids) in ('{"city": "Oslo"}', '{"city": "Rome"}')
        assert [told.id for told in answer.logprobs] == answer.ids
    finally:
        engine.model.engine.close()

"""vLLM as far as our engine calls it, with a transformers model inside; what it is given is checked as vLLM does."""

from __future__ import annotations

import enum
import importlib.machinery
import sys
import types
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1


@dataclass
class StructuredOutputsParams:
    grammar: str


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop_token_ids: list[int]
    logprobs: int | None
    detokenize: bool
    output_kind: RequestOutputKind
    logit_bias: dict[int, float] | None = None
    min_tokens: int = 0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be in (0, 1]")


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class EngineArgs:
    model: str
    dtype: str
    trust_remote_code: bool
    seed: int
    gpu_memory_utilization: float
    tensor_parallel_size: int
    max_num_seqs: int
    enforce_eager: bool
    disable_custom_all_reduce: bool
    max_logprobs: int
    disable_log_stats: bool
    structured_outputs_config: dict[str, Any]
    max_model_len: int | None = None
    enable_lora: bool = False
    max_lora_rank: int = 16
    max_loras: int = 1
    speculative_config: dict[str, Any] | None = None


@dataclass
class Row:
    number: str
    ids: list[int]
    params: SamplingParams
    lora: LoRARequest | None
    written: list[int] = field(default_factory=list)


class LLMEngine:
    """One token for every row at each step, without any memory."""

    started: ClassVar[list[LLMEngine]] = []

    def __init__(self, args: EngineArgs) -> None:
        self.args = args
        self.plain = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        limit = args.max_model_len or self.plain.config.max_position_embeddings
        if limit > self.plain.config.max_position_embeddings:
            raise ValueError(f"max_model_len {limit} is more than the model has")
        self.model_config = SimpleNamespace(max_model_len=limit)
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=args.max_num_seqs))
        self.rows: dict[str, Row] = {}
        self.tuned: dict[int, Any] = {}
        self.aborted: list[str] = []
        self.widest = 0
        self.engine_core = SimpleNamespace(shutdown=lambda: None)
        LLMEngine.started.append(self)

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> LLMEngine:
        return cls(args)

    def add_request(self, number: str, prompt: Any, params: SamplingParams, lora_request: Any = None) -> str:
        ids = prompt["prompt_token_ids"]
        if len(ids) + params.max_tokens > self.model_config.max_model_len:
            raise ValueError("the prompt and max_tokens are too long")
        if params.logprobs is not None and params.logprobs > self.args.max_logprobs:
            raise ValueError("too many logprobs")
        self.rows[number] = Row(number, list(ids), params, lora_request)
        assert len(self.rows) <= self.args.max_num_seqs
        return number

    def abort_request(self, numbers: list[str]) -> None:
        for number in numbers:
            del self.rows[number]
        self.aborted += numbers

    def remove_lora(self, number: int) -> bool:
        return self.tuned.pop(number, None) is not None

    def step(self) -> list[Any]:
        self.widest = max(self.widest, len(self.rows))
        return [self._one(row) for row in list(self.rows.values())]

    def _model(self, lora: LoRARequest | None) -> Any:
        if lora is None:
            return self.plain
        if lora.lora_int_id not in self.tuned:
            base = AutoModelForCausalLM.from_pretrained(self.args.model, dtype=torch.float32)
            self.tuned[lora.lora_int_id] = PeftModel.from_pretrained(base, lora.lora_path).eval()
        return self.tuned[lora.lora_int_id]

    @torch.no_grad()
    def _one(self, row: Row) -> Any:
        params = row.params
        logits = self._model(row.lora)(torch.tensor([[*row.ids, *row.written]])).logits[0, -1]
        token = int(logits.argmax())
        if params.temperature > 0:
            generator = torch.Generator().manual_seed((params.seed or 0) + len(row.written))
            token = int(torch.multinomial((logits / params.temperature).softmax(-1), 1, generator=generator))
        row.written.append(token)
        likely = None
        if params.logprobs is not None:
            values, ids = logits.log_softmax(-1).topk(params.logprobs + 1)
            likely = {i: SimpleNamespace(logprob=value) for i, value in zip(ids.tolist(), values.tolist(), strict=True)}
            likely.setdefault(token, SimpleNamespace(logprob=float(logits.log_softmax(-1)[token])))
        ended = token in params.stop_token_ids
        reason = "stop" if ended else "length" if len(row.written) >= params.max_tokens else None
        if reason:
            del self.rows[row.number]
        new = SimpleNamespace(token_ids=[token], logprobs=None if likely is None else [likely], finish_reason=reason)
        return SimpleNamespace(request_id=row.number, outputs=[new], finished=reason is not None)


def install(patch: pytest.MonkeyPatch) -> type[LLMEngine]:
    """Let `import vllm` find this."""
    LLMEngine.started = []
    parts = {
        "vllm": {"EngineArgs": EngineArgs, "LLMEngine": LLMEngine},
        "vllm.sampling_params": {
            "RequestOutputKind": RequestOutputKind,
            "SamplingParams": SamplingParams,
            "StructuredOutputsParams": StructuredOutputsParams,
        },
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
    }
    for name, content in parts.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for key, value in content.items():
            setattr(module, key, value)
        patch.setitem(sys.modules, name, module)
    return LLMEngine

"""Names of vLLM's surroundings in ms-swift 2: an engine for a list of questions, with vLLM where it is installed.

Where it is absent, the same names answer with our own engine, and say so once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from swift.arguments.vllm import VllmOptions
from swift.errors import ConfigError, DataError, UsageError
from swift.inference.answer import Reader
from swift.inference.engine import BASE, Engine, Generation, Request, Stepwise
from swift.inference.generate import choose_engine, shared_engine
from swift.inference.prompt import Turn, make_turn, require_fit
from swift.inference.settings import prepare_generation_config, require_room
from swift.inference.sharing import plain_lora, tells_rows_apart, without
from swift.inference.vllm_engine import VllmModel, missing, start
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, default_dtype, detect_hardware, load_model, load_tokenizer
from swift.models.placing import loading_options
from swift.models.source import find_model
from swift.templates.encoding import Template
from swift.tuners import SwiftModel, files
from swift.tuners.facade import attach_adapters

logger = get_logger()
SLOTS = 64  # rows at once, where vLLM does not say


@dataclass
class VllmGenerationConfig:
    """How answers are sampled, in the names of transformers and with the defaults of vLLM.

    `top_k` of 0 or -1 is all tokens; a `temperature` of 0, or `do_sample` set to False, is the likeliest token;
    `stop` are texts that end an answer; `length_penalty` is of beam search.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    n: int = field(default=1, kw_only=True)
    length_penalty: float = field(default=1.0, kw_only=True)
    stop: list[str] | None = field(default=None, kw_only=True)
    skip_special_tokens: bool = field(default=False, kw_only=True)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, or what was one of transformers' alone."""
        if name == "do_sample":
            if not value:
                self.temperature = 0.0
            return
        if name not in self.__dataclass_fields__:
            raise UsageError(
                "USAGE-01", f"VllmGenerationConfig has no {name}", fix="max_new_tokens is the longest answer"
            )
        super().__setattr__(name, value)

    @property
    def do_sample(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0 and self.num_beams == 1

    def for_transformers(self) -> GenerationConfig:
        """The same for transformers.

        Raises:
            UsageError: several answers to a question are asked for.
        """
        if self.n != 1:
            raise UsageError("USAGE-02", f"n={self.n}: a request gets one answer", fix="ask as often as you want one")
        sampling = {"temperature": self.temperature, "top_k": max(self.top_k, 0), "top_p": self.top_p}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.do_sample,
            repetition_penalty=self.repetition_penalty,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            **(sampling if self.do_sample else {}),
        )


@dataclass(frozen=True)
class LoRARequest:
    """An adapter that questions are answered with; vLLM's own class of this name serves too."""

    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class InferenceEngine:
    """What `get_vllm_engine` gives: vLLM or our own engine, with the tokenizer of the model."""

    model: Any
    hf_tokenizer: PreTrainedTokenizerBase
    generation_config: VllmGenerationConfig
    model_type: str
    model_dir: str
    slots: int = SLOTS
    allow_lora: bool = False
    _names: dict[str, str] = field(default_factory=dict)  # path -> the adapter's name in the model
    _plain: str | None = None  # of questions without one: the adapter that was on before, or BASE

    def adapter(self, asked: Any) -> str | None:
        """The name of the adapter that a LoRARequest means, loaded the first time; of None that of plain questions.

        Raises:
            ConfigError: the engine was made without `enable_lora`.
            DataError: the adapter is damaged, or made for another model.
        """
        if asked is None:
            return self._plain
        path = str(Path(asked.lora_path).expanduser())
        if path not in self._names:
            if not self.allow_lora:
                what = f"{path} is an adapter, and the engine was made without"
                raise ConfigError("CONFIG-02", what, fix="get_vllm_engine(..., enable_lora=True)")
            name = f"{asked.lora_name}-{len(self._names)}"
            if isinstance(self.model, VllmModel):
                self.model.engine.add_adapter(name, Path(path))
            else:
                self._put_on(name, Path(path))
            self._names[path] = name
        return self._names[path]

    def _put_on(self, name: str, path: Path) -> None:
        """Load an adapter beside what answers plain questions, which stays that."""
        found = files.folders(path)
        configs = [files.read_json(folder / files.CONFIG_FILE) for folder in found.values()]
        fault = DataError("CKPT-02", f"{path} cannot answer beside the model and other adapters",
                          why="only a plain LoRA whose layers tell the rows of a batch apart can",
                          fix=f"swift infer --ckpt_dir {path}")  # fmt: skip
        if isinstance(self.model, SwiftModel) or not all(map(plain_lora, configs[:1])):
            raise fault
        plain = self._plain if isinstance(self.model, PeftModel) else BASE
        tuned = attach_adapters(self.model, path, {next(iter(found), name): name}, frozen=True)
        if not isinstance(tuned, PeftModel) or not tells_rows_apart(tuned, name):
            self.model = without(tuned, name)
            raise fault
        self.model, self._plain = tuned, plain

    def engine(self, config: GenerationConfig) -> Engine:
        """What continues prompts as `config` says."""
        if isinstance(self.model, VllmModel) or config.num_beams != 1:
            return choose_engine(self.model, config, self.slots)
        return shared_engine(self.model, config, self.slots) or choose_engine(self.model, config, self.slots)


def get_vllm_engine(
    model_type: str | None,
    torch_dtype: torch.dtype | None = None,
    *,
    model_id_or_path: str | None = None,
    revision: str | None = None,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel_size: int = 1,
    max_model_len: int | None = None,
    engine_kwargs: Mapping[str, Any] | None = None,
    use_async: bool = False,
    enable_lora: bool = False,
    max_loras: int = 1,
    max_lora_rank: int = 16,
    trust_remote_code: bool = False,
) -> InferenceEngine:
    """An engine for `inference_vllm`: vLLM with the model, or our own engine where vLLM is not installed.

    Args:
        model_type: a registered name; None where the path says all.
        torch_dtype: None is as the model is saved, or what this machine has.
        model_id_or_path: a directory or hub id; None is the registered one.
        revision: on the hub.
        gpu_memory_utilization: share of each GPU's memory that vLLM takes.
        tensor_parallel_size: how many GPUs hold the model together.
        max_model_len: tokens of the longest prompt with its answer; None is the model's own.
        engine_kwargs: further arguments of vLLM's `EngineArgs`; our own engine takes none of them.
        use_async: means nothing: one engine answers lists and streams.
        enable_lora: whether questions may name adapters.
        max_loras: adapters in one batch of vLLM.
        max_lora_rank: the highest rank of an adapter of vLLM.
        trust_remote_code: whether the model's own code may run.

    Raises:
        ConfigError: vLLM cannot serve the model here.
    """
    source = find_model(model_type, model_id_or_path, revision, trust_remote_code=trust_remote_code)
    dtype = torch_dtype or default_dtype(source, detect_hardware())
    absent = missing()
    if absent:
        logger.warning(f"{absent} (the extra vllm brings it): swift's own engine answers")
        placed = loading_options("auto" if detect_hardware().accelerator else None)
        model: Any = load_model(source, dtype, **placed).eval()
    else:
        names = {value: name for name, value in TORCH_DTYPES.items()}
        options = VllmOptions(
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            max_model_len=max_model_len,
            vllm_enable_lora=enable_lora,
            vllm_max_lora_rank=max_lora_rank,
        )
        model = start(source, names[dtype], options, max_loras=max_loras, **(engine_kwargs or {}))
    return engine_of(model, load_tokenizer(source), allow_lora=enable_lora)


def engine_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, *, allow_lora: bool = False, slots: int = SLOTS
) -> InferenceEngine:
    """An engine around a model that is loaded, with the settings that it was published with."""
    own = model.generation_config or GenerationConfig()
    plain = VllmGenerationConfig()
    said = {name: getattr(own, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty")}
    config = replace(plain, **{name: value for name, value in said.items() if value is not None})
    if own.max_new_tokens:
        config.max_new_tokens = own.max_new_tokens
    return InferenceEngine(model, tokenizer, config, model.model_type, model.model_dir, slots, allow_lora)


def inference_vllm(
    engine: InferenceEngine,
    template: Template,
    request_list: Sequence[Mapping[str, Any]],
    *,
    generation_config: VllmGenerationConfig | None = None,
    lora_request: Any = None,
    use_tqdm: bool = False,
    verbose: bool = False,
    prompt_prefix: str = "[PROMPT]",
    output_prefix: str = "[OUTPUT]",
) -> list[dict[str, Any]]:
    """For each request a dict of `response` and `history` with it, in their order; they are answered together.

    Args:
        engine: of `get_vllm_engine`.
        template: the chat template.
        request_list: dicts of `query`, `history`, `system` and `tools`, of which all but the first may be left out.
        generation_config: None is the engine's own.
        lora_request: an adapter for all of them: a `LoRARequest`.
        use_tqdm: show how many are answered.
        verbose: log each prompt and answer.
        prompt_prefix: before a prompt.
        output_prefix: before an answer.

    Raises:
        DataError: a prompt leaves no room for an answer.
    """
    asked = _asked(engine, template, request_list, generation_config, lora_request)
    ended: dict[int, Generation] = {}
    for generation in _engine(engine, asked).run(each.request for each in asked):
        ended[id(generation.request)] = generation
        if use_tqdm:
            logger.info(f"answered {len(ended)} of {len(asked)}")
    found = [_told(each, ended[id(each.request)]) for each in asked]
    if verbose:
        for each, told in zip(asked, found, strict=True):
            prompt = template.tokenizer.decode(each.turn.prompt_ids)
            logger.info(f"{prompt_prefix}{prompt}{output_prefix}{told['response']}")
    return found


def inference_stream_vllm(
    engine: InferenceEngine,
    template: Template,
    request_list: Sequence[Mapping[str, Any]],
    *,
    generation_config: VllmGenerationConfig | None = None,
    lora_request: Any = None,
) -> Iterator[list[dict[str, Any]]]:
    """What `inference_vllm` gives, again and again while the answers grow; the last time it is that.

    Raises:
        UsageError: more than one beam.
        DataError: a prompt leaves no room for an answer.
    """
    asked = _asked(engine, template, request_list, generation_config, lora_request)
    stepwise = _engine(engine, asked)
    if not isinstance(stepwise, Stepwise):
        raise UsageError("USAGE-02", "these answers cannot stream", fix="inference_vllm, and num_beams=1")
    stop = threading.Event()
    going = [stepwise.submit(each.request, stop) for each in asked]
    shown = [""] * len(going)
    try:
        while any(generation.finish_reason is None for generation in going):
            stepwise.step()
            for generation in going:
                if generation.failure is not None:
                    raise generation.failure
            texts = [
                generation.request.reader.so_far(generation.ids) if generation.finish_reason is None else None
                for generation in going
            ]
            shown = [
                old if new is None or not new.startswith(old) else new for old, new in zip(shown, texts, strict=True)
            ]
            yield [
                _told(each, generation, None if generation.finish_reason else text)
                for each, generation, text in zip(asked, going, shown, strict=True)
            ]
    finally:
        stop.set()


@dataclass(frozen=True)
class _Asked:
    """A request and the turn that it answers."""

    turn: Turn
    request: Request


def _asked(
    engine: InferenceEngine,
    template: Template,
    request_list: Sequence[Mapping[str, Any]],
    said: VllmGenerationConfig | None,
    lora_request: Any,
) -> list[_Asked]:
    settings, adapter = said or engine.generation_config, engine.adapter(lora_request)
    found = []
    for number, row in enumerate(request_list):
        if not row.keys() & {"query", "messages"}:
            what = f"request {number} has no query, only {', '.join(map(str, row)) or 'nothing'}"
            raise DataError("DATA-03", what, fix='{"query": "..."}')
        turn = make_turn(template, {"history": None, "system": None, **row})
        require_fit(turn, template.max_length)
        count = len(turn.prompt_ids)
        config = prepare_generation_config(engine.model, template, settings.for_transformers(), num_prompt_tokens=count)
        require_room(engine.model, config, count)
        kwargs = {**turn.tokenizer_kwargs, **({"skip_special_tokens": True} if settings.skip_special_tokens else {})}
        reader = Reader(template, config.eos_token_id, settings.stop or (), kwargs, turn.stop_after)
        found.append(_Asked(turn, Request(turn.prompt_ids, config, reader, adapter=adapter)))
    return found


def _engine(engine: InferenceEngine, asked: Sequence[_Asked]) -> Engine:
    return engine.engine(asked[0].request.config if asked else GenerationConfig())


def _told(asked: _Asked, generation: Generation, text: str | None = None) -> dict[str, Any]:
    response = generation.request.reader.whole(generation.ids) if text is None else text
    return {"response": response, "history": asked.turn.history_with(response)}

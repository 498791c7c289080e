"""vLLM as the engine, where it is installed: the same questions, the same ends, its own speed.

Nothing else of the package knows vLLM; this module can be imported where it is absent.

See: https://docs.vllm.ai
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from swift.arguments.vllm import VllmOptions
from swift.errors import ConfigError, DataError, MissingPackageError, UsageError, brief
from swift.inference.constraint import GrammarConstraint
from swift.inference.engine import BASE, Generation, Stepwise, TokenLogprobs
from swift.inference.sampling import Sampler
from swift.inference.sharing import plain_lora
from swift.log import get_logger
from swift.models.source import ModelSource, with_weights
from swift.tuners import files

logger = get_logger()
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LEAST = -9999.0  # what a grammar rules out has -inf, which JSON does not know
ABSENT = "vLLM is not installed"


@dataclass
class VllmModel:
    """What stands in the place of a transformers model: its configuration, and the engine that holds its weights."""

    config: Any
    generation_config: GenerationConfig
    engine: VllmEngine
    model_type: str
    model_dir: str

    @property
    def device(self) -> torch.device:
        """Where ids are handed over."""
        return torch.device("cpu")

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return self.engine.max_model_len


class VllmEngine(Stepwise):
    """vLLM behind the steps of our own engine.

    Args:
        engine: vLLM's `LLMEngine`; nobody else may step it.
        rank: of the LoRAs that it takes, at most; None takes none.
    """

    def __init__(self, engine: Any, rank: int | None = None) -> None:
        self.engine, self.rank = engine, rank
        self.slots = int(engine.vllm_config.scheduler_config.max_num_seqs)
        self.max_model_len = int(engine.model_config.max_model_len)
        self.model: Any = None  # the weights are vLLM's
        self.knows = lambda adapter: True
        self.adapters: dict[str, Any] = {}  # name -> vLLM's LoRARequest
        self.active: str | None = None  # the adapter of those who name none
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: deque[Generation] = deque()
        self._running: dict[str, Generation] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._running)

    @property
    def num_running(self) -> int:
        """Requests that vLLM has."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that vLLM does not have yet."""
        return len(self._waiting)

    def queue(self, generation: Generation) -> None:
        """Queue an answer, from any thread."""
        with self._lock:
            self._waiting.append(generation)

    def step(self) -> list[Generation]:
        """What vLLM wrote in one step, after new requests came in; the answers that grew or ended."""
        changed = self._drop_cancelled()
        changed += self._admit()
        if self._running:
            for output in self.engine.step():
                generation = self._running.get(output.request_id)
                if generation is not None:
                    self._grow(output, generation)
                    changed.append(generation)
        return changed

    def cancel_adapter(self, adapter: str) -> int:
        """End all answers by an adapter with the next step; how many there are."""
        found = [each for each in [*self._running.values(), *self._waiting] if each.request.adapter == adapter]
        for generation in found:
            generation.cancel()
        return len(found)

    def forget_adapter(self, adapter: str) -> None:
        """Nothing is left to forget: what vLLM computed it keeps under a number that no other adapter gets."""

    def give_up(self, error: Exception) -> list[Generation]:
        """Forget every answer that is at work because of `error`; those that wait are left."""
        failed, self._running = self._running, {}
        for generation in failed.values():
            generation.failure = error
        try:
            self.engine.abort_request(list(failed))
        except Exception as more:  # an engine that has died: whoever waits is told of that all the same
            logger.error(f"vLLM cannot end the answers at work: {type(more).__name__}: {brief(more)}")
        return list(failed.values())

    def add_adapter(self, name: str, path: Path) -> None:
        """Let requests name a LoRA in PEFT's files.

        Raises:
            ConfigError: the engine takes none, or none of its rank.
            DataError: there is no plain LoRA.
        """
        if self.rank is None:
            what = f"{path} is an adapter, and vLLM was started without"
            raise ConfigError("CONFIG-02", what, fix="--vllm_enable_lora true, or --merge_lora true")
        folder = next(iter(files.folders(path).values()), None)
        config = files.read_json(folder / files.CONFIG_FILE) if folder else {}
        if folder is None or not plain_lora(config):
            raise DataError("CKPT-02", f"{path} is not a plain LoRA, which is all that vLLM puts beside a model",
                            fix=f"swift export --ckpt_dir {path} --merge_lora true")  # fmt: skip
        if config["r"] > self.rank:
            what = f"{path} has the rank {config['r']}, more than --vllm_max_lora_rank {self.rank}"
            raise ConfigError("CONFIG-02", what, fix=f"--vllm_max_lora_rank {config['r']}")
        number = next(self._numbers)  # never used again
        made: Any = importlib.import_module("vllm.lora.request")
        self.adapters[name] = made.LoRARequest(lora_name=f"{name}-{number}", lora_int_id=number, lora_path=str(folder))

    def drop_adapter(self, name: str) -> None:
        """Let no more requests name an adapter, which no answer at work does."""
        self.engine.remove_lora(self.adapters.pop(name).lora_int_id)

    def close(self) -> None:
        """Give its memory back."""
        self.engine.engine_core.shutdown()

    def _drop_cancelled(self) -> list[Generation]:
        for generation in list(self._waiting):
            if not self.knows(generation.request.adapter):
                generation.cancel()
        with self._lock:
            given_up = [generation for generation in self._waiting if generation.stop.is_set()]
            self._waiting = deque(generation for generation in self._waiting if not generation.stop.is_set())
        stopped = {number: generation for number, generation in self._running.items() if generation.stop.is_set()}
        self._end(list(stopped))
        given_up += stopped.values()
        for generation in given_up:
            generation.finish_reason = "stopped"
        return given_up

    def _admit(self) -> list[Generation]:
        """Hand over as many as vLLM answers at once; those that it refuses have failed."""
        refused = []
        while self._waiting and len(self._running) < self.slots:
            if not self.knows(self._waiting[0].request.adapter):
                break  # it went since this step began: the next one ends whoever waits for it
            with self._lock:
                generation = self._waiting.popleft()
            number, request = str(next(self._numbers)), generation.request
            name = self.active if request.adapter is None else request.adapter
            self._running[number] = generation  # before anything can fail, so that it is given up with the others
            try:
                self.engine.add_request(
                    number,
                    {"prompt_token_ids": request.prompt_ids},
                    sampling_params(generation),
                    lora_request=None if name in (None, BASE) else self.adapters[name],
                )
            except (ValueError, TypeError) as error:
                generation.failure = UsageError("USAGE-02", f"vLLM refuses this request: {brief(error)}")
                refused.append(self._running.pop(number))
        return refused

    def _grow(self, output: Any, generation: Generation) -> None:
        (new,) = output.outputs
        told = new.logprobs or [None] * len(new.token_ids)
        for token, likely in zip(new.token_ids, told, strict=True):
            if likely is not None and generation.request.logprobs is not None:
                ranked = sorted(likely.items(), key=lambda pair: -pair[1].logprob)[: generation.request.logprobs]
                likeliest = [(i, max(each.logprob, LEAST)) for i, each in ranked]
                generation.logprobs.append(TokenLogprobs(token, max(likely[token].logprob, LEAST), likeliest))
            generation.add(token)
            if generation.finish_reason is not None:
                break
        if output.finished:
            generation.finish_reason = generation.finish_reason or ("stop" if new.finish_reason == "stop" else "length")
            del self._running[output.request_id]
        elif generation.finish_reason is not None:
            self._end([output.request_id])

    def _end(self, numbers: list[str]) -> None:
        if numbers:
            self.engine.abort_request(numbers)
        for number in numbers:
            del self._running[number]


def missing() -> str | None:
    """Why vLLM cannot be used; None when it can."""
    return ABSENT if importlib.util.find_spec("vllm") is None else None


def check_settings(config: GenerationConfig) -> None:
    """Raise ConfigError for what vLLM does not do."""
    if not Sampler.serves(config) or config.no_repeat_ngram_size:
        what = "vLLM has no beam search" if (config.num_beams or 1) > 1 else "vLLM does not know all of these settings"
        raise ConfigError("CONFIG-02", what, fix="--infer_backend pt")


def sampling_params(generation: Generation) -> Any:
    """What vLLM calls the settings of a request; where an answer ends is for us to say."""
    vllm: Any = importlib.import_module("vllm.sampling_params")
    request, config = generation.request, generation.request.config
    said: dict[str, Any] = {"temperature": 0.0}
    if config.do_sample:
        said = {
            "temperature": 1.0 if config.temperature is None else config.temperature,
            "top_p": 1.0 if config.top_p is None else config.top_p,
            "top_k": config.top_k or 0,
            "min_p": config.min_p or 0.0,
            "seed": generation.seed,
        }
    if request.constraint is not None:
        constraint = request.constraint()
        assert isinstance(constraint, GrammarConstraint)
        said["structured_outputs"] = vllm.StructuredOutputsParams(grammar=constraint.lark)
    return vllm.SamplingParams(
        max_tokens=config.max_new_tokens,
        min_tokens=config.min_new_tokens or 0,
        repetition_penalty=config.repetition_penalty or 1.0,
        presence_penalty=request.presence,
        frequency_penalty=request.frequency,
        logit_bias=dict(request.bias) or None,
        stop_token_ids=request.reader.stop_ids,
        logprobs=request.logprobs,
        detokenize=False,
        output_kind=vllm.RequestOutputKind.DELTA,
        **said,
    )


def start(
    source: ModelSource,
    dtype: str,
    options: VllmOptions,
    *,
    seed: int = 0,
    max_loras: int = 1,
    lookup: int | None = None,
    **more: Any,
) -> VllmModel:
    """Start vLLM on a model's directory.

    Args:
        source: the model; a hub model's weights are fetched when they are not there.
        dtype: a key of `DTYPES`.
        options: how vLLM is set up.
        seed: of what has none of its own.
        max_loras: adapters in one batch.
        lookup: tokens of a guess from the prompt; None guesses nothing.
        more: further arguments of vLLM's `EngineArgs`.

    Raises:
        MissingPackageError: vLLM is not installed, or a package of its own is missing.
        ConfigError: vLLM cannot serve this model here.
    """
    if missing():
        raise MissingPackageError("PACKAGE-01", ABSENT, fix="pip install 'swift-finetune[vllm]'")
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise MissingPackageError("PACKAGE-01", f"vLLM cannot be imported: {brief(error)}") from error
    source = with_weights(source)
    if lookup:
        more["speculative_config"] = {"method": "ngram", "num_speculative_tokens": lookup, "prompt_lookup_max": 3}
    if options.vllm_enable_lora:
        more |= {"enable_lora": True, "max_lora_rank": options.vllm_max_lora_rank, "max_loras": max_loras}
    said = vllm.EngineArgs(
        model=str(source.path),
        dtype=DTYPES[dtype],
        trust_remote_code=source.trusted,
        seed=seed,
        gpu_memory_utilization=options.gpu_memory_utilization,
        tensor_parallel_size=options.tensor_parallel_size,
        max_num_seqs=options.max_num_seqs,
        enforce_eager=options.enforce_eager,
        disable_custom_all_reduce=options.disable_custom_all_reduce,
        max_logprobs=options.max_logprobs,
        disable_log_stats=True,
        structured_outputs_config={"backend": "guidance"},
        **({} if options.max_model_len is None else {"max_model_len": options.max_model_len}),
        **more,
    )
    try:
        engine = VllmEngine(
            vllm.LLMEngine.from_engine_args(said), options.vllm_max_lora_rank if options.vllm_enable_lora else None
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        what = f"vLLM does not start with {source.path}: {brief(error)}"
        raise ConfigError("CONFIG-03", what, fix="--infer_backend pt, or another --gpu_memory_utilization") from error
    config = AutoConfig.from_pretrained(str(source.path), trust_remote_code=source.trusted, local_files_only=True)
    # asked beside the other lengths, of which the least counts
    config.max_position_embeddings = engine.max_model_len
    own = source.path / "generation_config.json"
    settings = GenerationConfig.from_pretrained(str(source.path)) if own.is_file() else GenerationConfig()
    return VllmModel(config, settings, engine, source.name, str(source.path))

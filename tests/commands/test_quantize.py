"""Writing a model in few bits: where it goes, what the report says, who can load it, what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from swift import storage
from swift.commands.export import export_main
from swift.commands.quantize import REPORT, answers, read_rows
from swift.errors import ConfigError, DataError, DiskError, OutputError, UsageError
from swift.llm import ExportArguments, InferArguments, SftArguments, get_template, infer_main, sft_main
from swift.models import quantisation, quantising
from swift.models.load import load_model, load_tokenizer
from swift.models.quantisation import directory_suffix
from swift.models.source import ModelSource, find_model
from tests.road.conftest import conversations, write_jsonl
from tests.tiny import save_tiny

NEEDS = {"gptq": "gptqmodel", "awq": "gptqmodel", "hqq": "hqq", "torchao": "torchao", "fp8": "torchao"}


@pytest.fixture
def place(tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with my-model and chat.jsonl, which is where we are."""
    (tmp_path / "my-model").symlink_to(tiny_dir)
    write_jsonl(tmp_path / "chat.jsonl", conversations(32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(**options: object) -> None:
    export_main(ExportArguments(**{"model_id_or_path": "my-model", "dataset": ["chat.jsonl"], **options}))


def test_a_checkpoint_is_trained_on_4_bits_merged_into_all_and_written_in_4(place: Path) -> None:
    report = sft_main(
        SftArguments(
            model_id_or_path="my-model",
            dataset=["chat.jsonl"],
            quantization_bit=4,
            lora_target_modules=["ALL"],
            learning_rate=1e-2,
            max_steps=4,
            output_dir="out",
            add_output_dir_suffix=False,
        )
    )
    losses = [entry["loss"] for entry in report["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    checkpoint = Path(report["last_model_checkpoint"])
    saved = json.loads((checkpoint / "sft_args.json").read_text())
    assert (saved["quant_method"], saved["quantization_bit"]) == ("bnb", 4)

    few = {"quant_method": "bnb", "quant_bits": 4, "quant_n_samples": 20}
    export(model_id_or_path=None, ckpt_dir="out", merge_lora=True, verify_merge=False, **few)
    output = checkpoint.with_name(f"{checkpoint.name}-merged-bnb-int4")
    assert storage.verify(output) == []
    found = json.loads((output / REPORT).read_text())
    assert (found["method"], found["bits"], found["measured_on"]["rows"]) == ("bnb", 4, 12)
    assert found["measured_on"]["held_out"]
    assert found["calibrated_on"] is None  # bnb looks at no data
    assert found["bytes"] < found["bytes_before"]
    assert 0.5 < found["agreement"] <= 1
    assert found["perplexity"] == pytest.approx(found["perplexity_before"], rel=0.2)
    model = AutoModelForCausalLM.from_pretrained(output)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"

    shorter = checkpoint.with_name(f"{checkpoint.name}-bnb-int4")  # the other spelling, on load
    answer = infer_main(InferArguments(ckpt_dir=str(shorter), query="Where?", max_new_tokens=4, save_result=False))
    assert answer["result"][0]["query"] == "Where?"
    with pytest.raises(OutputError, match="exists"):
        export(
            model_id_or_path=None, ckpt_dir=str(checkpoint.with_name(f"{checkpoint.name}-merged")), quant_method="bnb"
        )
    with pytest.raises(ConfigError, match="in bnb already"):
        export(model_id_or_path=str(output), quant_method="bnb", quant_bits=8)
    with pytest.raises(UsageError, match="is an adapter"):
        export(model_id_or_path=None, ckpt_dir=str(checkpoint), quant_method="bnb")


def test_what_is_missing_is_said_before_anything_is_loaded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="--dataset is missing"):
        export(dataset=[], quant_method="gptq")
    with pytest.raises(ConfigError, match="multiples of 64; one here has 32"):
        export(quant_method="awq")
    with pytest.raises(ConfigError, match="bnb has no 3 bits"):
        export(quant_method="bnb", quant_bits=3)
    monkeypatch.setattr(storage, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(DiskError, match="No space left for"):
        export(quant_method="bnb", quant_output_dir="small")


def test_what_fails_leaves_nothing_behind(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(source, directory: Path, *rest: object) -> dict:
        (directory / "half.safetensors").write_bytes(b"half")
        raise DataError("MODEL-01", "a layer cannot be quantised")

    monkeypatch.setitem(quantising.WRITERS, "bnb", failing)
    with pytest.raises(DataError):
        export(dataset=[], quant_method="bnb", quant_output_dir="broken")
    assert sorted(path.name for path in place.iterdir()) == ["chat.jsonl", "my-model"]


def test_what_stays_in_full_is_as_it_was_whatever_it_was_trained_in(
    place: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_dir, place / "whole")
    AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.bfloat16).save_pretrained(place / "whole")
    (place / "whole" / "sft_args.json").write_text(json.dumps({"dtype": "fp32", "sft_type": "full"}))
    asked = []

    def failing(source, directory: Path, bits: int, dtype: torch.dtype, blocks: object) -> dict:
        asked.append(dtype)
        raise DataError("MODEL-01", "enough")

    monkeypatch.setitem(quantising.WRITERS, "bnb", failing)
    for said in ({}, {"dtype": "fp32"}):
        with pytest.raises(DataError, match="enough"):
            export(model_id_or_path=None, ckpt_dir="whole", dataset=[], quant_method="bnb", **said)
    assert asked == [torch.bfloat16, torch.float32]


def test_calibration_is_rows_as_the_model_sees_them_cut_into_blocks(place: Path) -> None:
    source = find_model(None, "my-model")
    template = get_template("auto", load_tokenizer(source))
    args = ExportArguments(dataset=["chat.jsonl"], quant_n_samples=10, quant_seqlen=64, dataset_seed=3)
    rows = read_rows(args, template)
    assert {len(block) for block in rows.blocks[:-1]} == {64}
    shown = template.tokenizer.decode([token for block in rows.blocks for token in block])
    assert shown.count("<|im_start|>user") >= 10
    assert (rows.calibrated, len(rows.measured), rows.held_out) == (10, 22, True)
    assert not any(template.tokenizer.decode(ids) in shown for ids, _ in rows.measured)
    assert read_rows(args, template).blocks == rows.blocks
    every = read_rows(ExportArguments(dataset=["chat.jsonl"]), template)
    assert (len(every.measured), every.held_out) == (32, False)


def test_perplexity_is_that_of_the_replies(place: Path) -> None:
    source = find_model(None, "my-model")
    row = ([5, 6, 7, 8], [-100, -100, 7, 8])
    found = answers(source, [row])
    model = AutoModelForCausalLM.from_pretrained("my-model")
    with torch.no_grad():
        loss = model(input_ids=torch.tensor([row[0]]), labels=torch.tensor([row[1]])).loss
        likeliest = model(input_ids=torch.tensor([row[0]])).logits[0, 1:3].argmax(-1)
    assert found is not None
    assert found.perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert torch.equal(found.likeliest, likeliest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("bnb", 4),
        ("bnb", 8),
        ("gptq", 4),
        ("gptq", 8),
        ("awq", 4),
        ("hqq", 3),
        ("torchao", 8),
        ("torchao", 4),
        ("fp8", 8),
    ],
)
def test_every_way_loads_answers_and_is_a_base_to_train_on(place: Path, method: str, bits: int) -> None:
    if importlib.util.find_spec(NEEDS.get(method, "torch")) is None:
        pytest.skip(f"needs {NEEDS[method]}")
    (place / "my-model").unlink()
    save_tiny(place / "my-model", hidden=128)  # awq's layers are not narrower than 64
    export(quant_method=method, quant_bits=bits, quant_n_samples=24, quant_seqlen=64)
    [output] = place.glob(f"*{directory_suffix(method, bits)}")
    assert json.loads((output / REPORT).read_text())["agreement"] > 0.3
    if method != "hqq":
        model = AutoModelForCausalLM.from_pretrained(output, device_map="cpu", dtype=torch.float32)
        with torch.no_grad():
            assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.isfinite().all()
    answer = infer_main(
        InferArguments(model_id_or_path=str(output), query="Where?", max_new_tokens=4, save_result=False)
    )
    assert answer["result"]
    if method == "fp8":
        return
    train = {
        "model_id_or_path": str(output),
        "dataset": ["chat.jsonl"],
        "lora_target_modules": ["ALL"],
        "learning_rate": 1e-2,
        "add_output_dir_suffix": False,
        "save_steps": 2,
        "eval_steps": 2,
    }
    if (method, bits) == ("torchao", 4):
        with pytest.raises(ConfigError, match="nothing trains on a base in 4 bits of torchao"):
            sft_main(SftArguments(**train, output_dir="whole", max_steps=4))
        return
    whole = sft_main(SftArguments(**train, output_dir="whole", max_steps=4))
    losses = [entry["loss"] for entry in whole["log_history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    again = sft_main(
        SftArguments(**train, output_dir="again", max_steps=4, resume_from_checkpoint="whole/checkpoint-2")
    )
    one, two = (load_file(Path(run["last_model_checkpoint"], "adapter_model.safetensors")) for run in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    answer = infer_main(InferArguments(ckpt_dir="whole", query="Where?", max_new_tokens=4, save_result=False))
    assert answer["result"]
    assert slope_by_differences(find_model(None, str(output))) < 0.05


def slope_by_differences(source: ModelSource) -> float:
    """How far the gradient is from what two losses say, as a share: no way of computing either is shared."""
    torch.manual_seed(0)
    model = get_peft_model(load_model(source, torch.float32), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data.normal_(std=0.1)
    model.eval()
    ids_BT = torch.randint(3, 390, (4, 16), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids_BT, labels=ids_BT).loss.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in trained]).norm()
    steps = [parameter.grad * (0.05 / norm) for parameter in trained]
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, step in zip(trained, steps, strict=True):
                parameter += sign * step
            losses.append(model(input_ids=ids_BT, labels=ids_BT).loss)
    return float(abs((losses[0] - losses[1]) / 0.1 / norm - 1))

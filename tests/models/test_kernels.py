"""What faster kernels want is asked for before anything is loaded, and what lacks is said in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swift.arguments.infer import InferArguments
from swift.arguments.sft import SftArguments
from swift.dist import Hardware
from swift.errors import ConfigError, MissingPackageError
from swift.models import kernels
from swift.models.kernels import check_kernels
from swift.trainers.arguments import training_arguments

CPU, GPU = Hardware(), Hardware("cuda", bf16=True)


@pytest.mark.parametrize(
    ("options", "hardware", "absent", "kind", "message"),
    [
        ({"use_flash_attn": True}, GPU, "flash_attn", MissingPackageError, "pip install flash-attn"),
        ({"use_liger_kernel": True}, GPU, "liger_kernel", MissingPackageError, r"swift-finetune\[liger\]"),
        ({"torch_compile": True}, GPU, "triton", MissingPackageError, "pip install triton"),
        ({"torch_compile": True}, CPU, "g++", ConfigError, "install g\\+\\+, or name another in the variable CXX"),
        ({"torch_compile": True, "torch_compile_backend": "aot_eager"}, CPU, "g++", None, ""),
        ({"training_options": {"torch_compile": True}}, GPU, "triton", MissingPackageError, "pip install triton"),
        ({"training_options": {"torch_compile_backend": "aot_eager"}}, CPU, "g++", None, ""),
        ({"training_options": {"use_liger_kernel": True}}, GPU, "liger_kernel", MissingPackageError, r"\[liger\]"),
    ],
)
def test_what_lacks_is_said(
    options: dict[str, Any], hardware: Hardware, absent: str, kind: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    args, found = SftArguments(dtype="bf16", **options), [""]
    monkeypatch.setattr(kernels, "find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: name if name in found else None)
    errors = check_kernels(args, hardware, ["lora"])
    assert [type(error) for error in errors] == ([kind] if kind else [])
    if kind:
        with pytest.raises(kind, match=message):
            raise errors[0]
    found[0] = absent
    assert not check_kernels(args, hardware, ["lora"])


def test_another_compiler_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.shutil, "which", lambda name: name if name == "c++-of-mine" else None)
    monkeypatch.setenv("CXX", "c++-of-mine")
    assert not check_kernels(SftArguments(torch_compile=True), CPU, ["lora"])


def test_who_only_answers_is_asked_for_what_concerns_answers() -> None:
    assert not check_kernels(InferArguments(dtype="bf16"), CPU, [])
    (error,) = check_kernels(InferArguments(dtype="bf16"), Hardware("cuda"), [])
    assert "does not compute in bf16" in str(error)


def test_words_of_transformers_win(tmp_path: Path) -> None:
    def made(**more: Any) -> Any:
        return training_arguments(SftArguments(dtype="fp32", output_dir=str(tmp_path), torch_compile=True,
                                               torch_compile_backend="aot_eager", **more))  # fmt: skip

    assert made().layer_compiler == "aot_eager"
    assert made(training_options={"torch_compile": False}).layer_compiler is None
    assert made(training_options={"torch_compile_mode": "default"}).layer_compiler == "aot_eager"
    assert made(training_options={"torch_compile_backend": "inductor"}).layer_compiler == "inductor"
    assert made(use_liger_kernel=True, training_options={"use_liger_kernel": False}).liger_kernels is None

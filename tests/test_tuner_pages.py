"""The pages about tuners: fresh, complete, with examples that run; the site is built of them without a warning."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from swift.tuners.methods import available_sft_types, available_tuners
from tests.documents import ROOT, Block, blocks, commands
from tests.tuners.cases import HOSTS, stir
from tests.tuners.vision import tiny_vit

FOLDER = ROOT / "docs" / "tuners"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name not in ("README.md", "cost.md"))
NAMES = [path.stem for path in PAGES]


def python_blocks(path: Path) -> list[Block]:
    return [block for block in blocks(path.read_text(encoding="utf-8")) if block.language == "python"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """A directory with the models that the examples name."""
    directory = tmp_path_factory.mktemp("tuners")
    (directory / "my-model").symlink_to(tiny_dir)
    tiny_vit().save_pretrained(directory / "my-vit")
    if find_spec("diffusers"):
        HOSTS["unet"].make().unet.save_pretrained(directory / "my-unet")
    return directory


def test_pages_are_fresh() -> None:
    script = str(ROOT / "scripts" / "tuner_pages.py")
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_method_has_a_page() -> None:
    assert {*available_sft_types(), *available_tuners()} - {"full"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_its_picture_equation_cost_and_command(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    picture = ElementTree.parse(FOLDER / "images" / f"{name}.svg").getroot()
    assert f"(images/{name}.svg)" in text
    assert picture.findall(".//{*}text")
    assert picture.findtext("{*}title") == text.splitlines()[0].removeprefix("# ")
    assert "## What is computed" in text
    assert "## What it costs" in text
    for block in blocks(text):
        if block.language == "bash":
            for command in commands(block.text):  # tests/road/test_documents.py runs every configuration file
                found = re.match(r"swift sft --config (configs/sft/\w+\.yaml)( --tuner_backend unsloth)?$", command)
                assert found, command
                assert (ROOT / found[1]).is_file()


def test_every_configuration_file_of_a_tuner_is_shown() -> None:
    shown = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    others = {"full", "lora_ddp", "quickstart", "several", "qlora", "qlora_int8", "qlora_hqq"}
    for path in (ROOT / "configs" / "sft").glob("*.yaml"):
        assert path.stem in others or f"configs/sft/{path.name}" in shown, path.name


@pytest.mark.parametrize("name", [path.stem for path in PAGES if python_blocks(path)])
def test_the_example_runs_and_learns(name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = python_blocks(FOLDER / f"{name}.md")
    if "diffusers" in first.text:
        pytest.importorskip("diffusers")
    for model in place.iterdir():
        (tmp_path / model.name).symlink_to(model.resolve())
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(first.text, f"{name}.md:{first.line}", "exec"), scope)
    model = scope["model"].train()
    loss = loss_of(model, first.text)
    loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    if "optimizer" in scope:
        scope["optimizer"].step()
        assert loss_of(model, first.text) < loss
    stir(model)
    for block in rest:
        before = output_of(model.eval(), first.text)
        exec(compile(block.text, f"{name}.md:{block.line}", "exec"), scope)
        assert torch.allclose(
            output_of(scope["model"].eval(), first.text), before, atol=1e-3 * before.abs().max().item()
        )


def loss_of(model: nn.Module, example: str) -> torch.Tensor:
    return output_of(model, example).square().mean()


def output_of(model: nn.Module, example: str) -> torch.Tensor:
    """What the model of an example gives for the inputs of its kind."""
    kind = "unet" if "my-unet" in example else "vit" if "my-vit" in example else "lm"
    inputs = {key: value for key, value in HOSTS[kind].inputs.items() if key != "labels"}
    found = model(**inputs)
    return found.sample if kind == "unet" else found.logits


def test_links_of_pages_hold() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_has_every_public_name() -> None:
    for module in ("swift", "swift.llm", "swift.tuners", "swift.peft", "swift.trainers"):
        text = (ROOT / "docs" / "api" / f"{module}.md").read_text(encoding="utf-8")
        for name in importlib.import_module(module).__all__:
            assert re.search(rf"(heading: |## |`){re.escape(name)}\b", text), f"{module}.{name}"


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("mkdocstrings") and find_spec("material")), reason="needs requirements/docs.txt")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "mkdocs build --strict" in makefile
    command = ["make", "docs", f"PYTHON={sys.executable}", f"SITE={tmp_path / 'site'}"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    for page in ("index.html", "tuners/lora/index.html", "api/swift.tuners/index.html"):
        html = (tmp_path / "site" / page).read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:css|js|woff2?)"', html), "fetched from elsewhere"
    assert "AdapterConfig" in html
    assert 'id="swift.tuners.facade.Swift.prepare_model"' in html

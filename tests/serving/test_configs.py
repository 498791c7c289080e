"""Every file in configs/deploy is served and asked, and the options that stand for what requests leave out count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from swift.commands.deploy import deploy_main
from tests.documents import ROOT
from tests.serving.conftest import MODEL
from tests.serving.test_deploy import CAPITAL, ask
from tests.serving.test_embeddings import save_embedder

CONFIGS = sorted((ROOT / "configs" / "deploy").glob("*.yaml"))


@pytest.fixture(scope="module")
def place(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that the files name."""
    directory = tmp_path_factory.mktemp("served")
    (directory / "adapters").mkdir()
    for name, target in {
        "output": adapters / "one",
        "my-model": demo(),
        "adapters/formal": adapters / "one",
        "adapters/short": adapters / "two",
    }.items():
        (directory / name).symlink_to(target)
    (directory / "key.txt").write_text("secret\n")
    save_embedder(directory / "my-embedder")
    return directory


def demo() -> Path:
    from swift.models import MODELS

    path = MODELS[MODEL].path
    assert path is not None
    return Path(path)


def serve(*words: str) -> tuple[Any, openai.OpenAI]:
    served = deploy_main([*words, "--port", "0"], prevent_thread_lock=True)
    assert served is not None
    url = f"{served.url.replace('0.0.0.0', '127.0.0.1')}v1"
    return served, openai.OpenAI(base_url=url, api_key="secret", max_retries=0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config(path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(place)
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# swift deploy --config {path.relative_to(ROOT)}"
    more = ["--model_id_or_path", "my-model"] if path.stem == "checkpoint" else []
    served, client = serve("--config", str(path), "--allow_other_base", "true", *more)
    names = [model.id for model in client.models.list()]
    if path.stem == "embeddings":
        assert len(client.embeddings.create(model=names[0], input="hi").data[0].embedding) == 64
    else:
        answers = {ask(client, model=name, max_tokens=8).choices[0].message.content for name in names}
        assert len(answers) == len(names) == {"checkpoint": 2, "adapters": 3}.get(path.stem, 1)
    if path.stem == "network":
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
    served.close()


def test_what_a_request_leaves_out_is_the_servers(place: Path) -> None:
    words = [
        "--max_new_tokens",
        "3",
        "--do_sample",
        "false",
        "--repetition_penalty",
        "5.0",
        "--prompt_lookup_num_tokens",
        "4",
    ]
    served, client = serve("--model_type", MODEL, *words)
    seen = []
    served.service.engine.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    left_out = [client.chat.completions.create(model=MODEL, messages=CAPITAL) for _ in range(2)]
    assert [answer.usage.completion_tokens for answer in left_out] == [3, 3]
    assert left_out[0].choices[0].finish_reason == "length"
    assert left_out[0].choices[0].message.content == left_out[1].choices[0].message.content
    said = client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=5)
    assert said.usage.completion_tokens == 5
    often = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, max_tokens=5, extra_body={"repetition_penalty": 1.0}
    )
    assert often.choices[0].message.content != said.choices[0].message.content
    seen.clear()
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one two three one two three one two"}], max_tokens=60,
                                   extra_body={"repetition_penalty": 1.0})  # fmt: skip
    assert any(1 < tokens <= 5 for _, tokens in seen[1:])
    served.close()

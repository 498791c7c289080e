"""Threads that have their own active adapters each get what they would get alone (USE_UNIQUE_THREAD=0)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from swift.errors import ConfigError
from swift.tuners import Swift, SwiftModel
from tests.tuners.cases import HOSTS, Host, rows, run, tuned

ROUNDS = 6


@pytest.fixture(autouse=True)
def own_adapters(monkeypatch):
    monkeypatch.setenv("USE_UNIQUE_THREAD", "0")


def serve(model: SwiftModel, host: Host, plans: Sequence[Sequence[Sequence[str]]]) -> list[list[torch.Tensor]]:
    """What each thread gets that goes through its plan of active adapters; all start each round together."""
    model.eval()
    gate = threading.Barrier(len(plans))
    results: list[list[torch.Tensor]] = [[] for _ in plans]
    faults: list[BaseException] = []

    def work(plan: Sequence[Sequence[str]], result: list[torch.Tensor]) -> None:
        try:
            for names in plan:
                gate.wait(60)
                model.set_active_adapters(names)
                result.append(run(model, host))
        except BaseException as error:
            faults.append(error)
            gate.abort()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(plans, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not faults, faults
    return results


@pytest.mark.parametrize(("host", "method"), rows())
def test_four_threads_each_get_their_own(host, method):
    host = HOSTS[host]
    model = tuned(host, method, 1, "one")
    for seed, (name, other) in enumerate({"lora1": "lora", "lora10": "lora", "ia3": "ia3"}.items()):
        model = tuned(host, other, seed + 2, name, model)
    wanted: list[list[str]] = [["one"], ["lora1"], ["lora10", "one"], []]
    alone = []
    for names in wanted:
        model.set_active_adapters(names)
        alone.append(run(model, host))
    assert torch.equal(alone[3], run(host.make(), host))
    for outputs, expected in zip(serve(model, host, [[names] * ROUNDS for names in wanted]), alone, strict=True):
        assert all(torch.equal(output, expected) for output in outputs)
    turns = [wanted[place:] + wanted[:place] for place in range(4)]
    for place, outputs in enumerate(serve(model, host, turns)):
        for turn, output in enumerate(outputs):
            assert torch.equal(output, alone[(place + turn) % 4])
    assert model.active_adapters == set(wanted[-1])  # this thread's


def test_a_new_thread_starts_with_the_base():
    host = HOSTS["lm"]
    model = tuned(host, "lora")
    got: list[torch.Tensor] = []
    thread = threading.Thread(target=lambda: got.append(run(model, host)))
    thread.start()
    thread.join()
    assert torch.equal(got[0], run(host.make(), host))
    assert model.active_adapters == {"one"}


def test_a_model_of_threads_is_not_merged():
    model = tuned(HOSTS["lm"], "lora")
    for change in (Swift.merge, Swift.merge_and_unload):
        with pytest.raises(ConfigError, match="threads"):
            change(model)


def test_by_default_all_threads_see_one_list(monkeypatch):
    monkeypatch.setenv("USE_UNIQUE_THREAD", "1")
    host = HOSTS["lm"]
    model = tuned(host, "lora")
    on, got = run(model, host), []
    thread = threading.Thread(target=lambda: got.append(run(model, host)))
    thread.start()
    thread.join()
    assert torch.equal(got[0], on)

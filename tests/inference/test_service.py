"""One engine, many askers: everybody gets their own answer, whoever comes, goes or fails meanwhile."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from swift.errors import ConfigError, TemporaryError, UnavailableError
from swift.inference.batching import Batching
from swift.inference.service import Service
from tests.inference.fake import FakeTemplate
from tests.inference.test_batching import alone, make, requests_for
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def template():
    return FakeTemplate(tiny_tokenizer())


@pytest.fixture(scope="module")
def model(template):
    return make("qwen2", template)


@pytest.fixture
def service(model):
    service = Service(Batching(model, 4))
    yield service
    service.close()


def test_many_threads_get_their_own_answers(service, model, template):
    requests = requests_for(model, template, 10)

    def ask(request):
        lengths = [len(generation.ids) for generation in service.stream(request, threading.Event())]
        assert lengths == sorted(lengths)
        return lengths[-1]

    with ThreadPoolExecutor(10) as pool:
        lengths = list(pool.map(ask, requests))
    assert lengths == [len(alone(model, request)) for request in requests]
    ended = {id(each.request): each.ids for each in service.run(requests[:8])}
    assert [ended[id(request)] for request in requests[:8]] == [alone(model, request) for request in requests[:8]]


@pytest.mark.parametrize("penalty", [2, float("nan"), -1.0])
def test_a_setting_that_cannot_be_fails_its_asker_alone(service, model, template, penalty):
    fine, bad = requests_for(model, template, 2)
    config = copy.deepcopy(bad.config)
    config.repetition_penalty = penalty
    stream = service.stream(fine, threading.Event())
    first = next(stream)  # all of it already, where the engine was fast
    with pytest.raises(ConfigError, match="penalty"):
        list(service.stream(replace(bad, config=config), threading.Event()))
    assert [first, *stream][-1].ids == alone(model, fine)
    assert not service._notify


def test_the_queue_has_an_end(model, template):
    service = Service(Batching(model, 1), max_waiting=2)
    told = threading.Event()
    requests = requests_for(model, template, 9)
    service.between_steps(told.wait)  # nothing is taken from the queue meanwhile
    for request in requests[:2]:
        service.check_room()
        service.submit(request, lambda: None)
    with pytest.raises(TemporaryError, match="2 requests wait"):
        service.check_room()
    told.set()
    service.close()
    with pytest.raises(UnavailableError):
        service.submit(requests[0], lambda: None)


def test_a_failure_is_that_of_those_at_work(service, model, template, monkeypatch):
    requests = requests_for(model, template, 3)

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model, "forward", fail)
        for request in requests:
            with pytest.raises(RuntimeError, match="out of memory"):
                list(service.stream(request, threading.Event()))
    *_, last = service.stream(requests[0], threading.Event())
    assert last.ids == alone(model, requests[0])


def test_leaving_a_stream_frees_its_place(service, model, template):
    (request,) = requests_for(model, template, 1, repetition_penalty=1.1)
    request.config.max_new_tokens = 400
    stream = service.stream(request, threading.Event())
    next(stream)
    stream.close()
    service.between_steps(lambda: None).result()
    service.between_steps(lambda: None).result()
    assert service.engine.num_running == 0


def test_jobs_run_between_steps_and_give_what_they_give(service):
    assert service.between_steps(lambda: 5).result() == 5
    with pytest.raises(KeyError):
        service.between_steps(lambda: {}["absent"]).result()


def test_closing_ends_answers(model, template):
    service = Service(Batching(model, 4))
    (request,) = requests_for(model, template, 1)
    request.config.max_new_tokens = 300
    begun = threading.Event()
    generation = service.submit(request, begun.set)
    begun.wait()
    service.close()
    assert generation.finish_reason in ("stopped", "stop")


def test_what_fails_in_one_answer_is_its_own(service, model, template):
    class Broken:
        def allow(self, logits_V):
            raise ValueError("no token is allowed")

        def accept(self, token):
            raise AssertionError

    requests = requests_for(model, template, 3)
    requests[1] = replace(requests[1], constraint=Broken)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(lambda r=request: list(service.stream(r, threading.Event()))) for request in requests]
    assert isinstance(asked[1].exception(), ValueError)
    for k in (0, 2):
        assert asked[k].result()[-1].ids == alone(model, requests[k])


def test_who_asks_for_an_adapter_that_went_is_told(service, model, template):
    service.engine.knows = lambda adapter: adapter != "gone"
    (request,) = requests_for(model, template, 1)
    *_, last = service.stream(replace(request, adapter="gone"), threading.Event())
    assert (last.finish_reason, last.ids) == ("stopped", [])

"""Two engines in processes of their own give what one gives, whatever becomes of them."""

import json
import os
import signal
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch

from sumzero.config import Generate
from sumzero.errors import RunError
from sumzero.infer.engine import Completion, Engine, Failure, Request
from sumzero.infer.engines import Engines

from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
SETTINGS = Generate(
    engines=2, max_new_tokens=12, dtype="float32", max_in_flight=4, cpu_kv_cache_gib=0.1
)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    write_model(folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def deadly(tokenizer):
    """A token that a process ends at."""
    return len(tokenizer) - 1


@pytest.fixture(scope="module")
def requests(deadly):
    draws = torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 120, (40,), generator=draws).sort(descending=True).values
    return [
        Request(f"row-{i}", torch.randint(deadly, (n,), generator=draws).tolist())
        for i, n in enumerate(lengths.tolist())
    ]


@pytest.fixture(scope="module")
def wanted(folder, requests):
    """The tokens that one engine gives, in this process."""
    engine = Engine(folder, SETTINGS, 256, 0)
    return {done.id: done.token_ids for done in engine.generate(requests, [], 0)}


@pytest.fixture(scope="module")
def engines(folder, deadly):
    with pytest.MonkeyPatch.context() as changed:
        fault = str(Path(__file__).parent / "deadly")
        changed.setenv("PYTHONPATH", os.pathsep.join([fault, os.environ.get("PYTHONPATH", "")]))
        changed.setenv("DEADLY", json.dumps({"kill": [deadly]}))
        with Engines(folder, SETTINGS, 256, 0) as started:
            yield started


def _tokens(found):
    """By id; each id is there once."""
    found = list(found)
    assert len({one.id for one in found}) == len(found)
    return {one.id: one.token_ids for one in found if isinstance(one, Completion)}


def _workers():
    return psutil.Process().children()


def test_two_engines_give_each_prompt_the_tokens_that_one_gives(engines, requests, wanted):
    assert len(engines) == len(_workers()) == 2
    assert len(set(wanted.values())) > 20
    assert _tokens(engines.generate(requests, [], 0)) == wanted
    assert min(engines.tokens) > 0
    assert _tokens(engines.generate([], [], 0)) == {}


def test_each_engine_keeps_to_cores_of_its_own(engines):
    bound = [set(worker.cpu_affinity()) for worker in _workers()]
    assert bound[0].isdisjoint(bound[1])
    assert bound[0] | bound[1] == set(os.sched_getaffinity(0))


def test_a_stop_token_ends_in_the_next_call_and_not_in_the_one_after(engines, requests, wanted):
    stop = wanted["row-3"][4]
    stopped = _tokens(engines.generate(requests, [stop], 0))
    assert stopped["row-3"] == wanted["row-3"][: wanted["row-3"].index(stop) + 1]
    assert _tokens(engines.generate(requests, [], 0)) == wanted


def test_prompts_about_one_document_go_to_one_engine(engines, requests):
    """Its whole answer comes from the cache of the engine that has the document."""
    before = engines.tokens
    together = [Request(one.id, one.prompt_ids, "the document") for one in requests[:9]]
    assert len(_tokens(engines.generate(together, [], 0))) == 9
    assert sorted(a == b for a, b in zip(engines.tokens, before, strict=True)) == [False, True]


def test_nothing_is_lost_with_an_engine_that_is_killed(engines, requests, wanted):
    making = engines.generate(requests, [], 0)
    first = list(islice(making, 5))
    _workers()[1].send_signal(signal.SIGKILL)
    assert _tokens([*first, *making]) == wanted


def test_the_row_that_an_engine_dies_of_is_told_and_all_others_are_answered(
    engines, requests, wanted, deadly
):
    row = Request("deadly", [5, deadly, 7])
    found = list(engines.generate([*requests[:20], row, *requests[20:]], [], 0))
    assert _tokens(found) == wanted
    failures = [one for one in found if isinstance(one, Failure)]
    assert failures == [Failure("deadly", "the engine dies of this row: SIGKILL")]


def test_engines_that_go_on_dying_end_the_generation(engines, requests, deadly, monkeypatch):
    """After the other tests, in which they have died three times."""
    monkeypatch.setattr("sumzero.infer.engines.RESTARTS", 3)
    making = engines.generate([Request("deadly", [deadly]), *requests], [], 0)
    with pytest.raises(RunError, match=r"engine [01] died: SIGKILL; engines were started again 3"):
        list(making)


def test_an_engine_that_does_not_start_is_told_once(folder, caplog):
    caplog.set_level("INFO")
    settings = Generate(dtype="float32", cpu_kv_cache_gib=1e6)
    with pytest.raises(RunError, match=r"engine 0 did not start: exit code 1: \w*Error: .+"):
        Engines(folder, settings, 256, 0)
    assert caplog.text.count("most recent call last") == 1

"""Adapters are applied by vLLM as by peft, side by side; where they are not, nothing is made."""

import pytest

from sumzero.config import Generate
from sumzero.errors import RunError
from sumzero.infer.engine import Engine, Request

from .adapters import tokens_of, write_adapter
from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
PROMPTS = [[5, 9, 200, 31, 8], [77, 12, 301]]
NEW = 12
SETTINGS = Generate(max_new_tokens=NEW, dtype="float32", max_in_flight=12, cpu_kv_cache_gib=0.1)


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A base, two sets of adapters that change it, and one that does not."""
    root = tmp_path_factory.mktemp("adapters")
    write_model(root / "base", tokenizer)
    write_adapter(root / "base", root / "one")
    write_adapter(root / "base", root / "two", rank=4, seed=1)
    write_adapter(root / "base", root / "idle", scale=0)
    return root


@pytest.fixture(scope="module")
def engine(folders):
    return Engine(folders / "base", SETTINGS, 256, 0, [folders / "one", folders / "two"])


@pytest.fixture(scope="module")
def made(engine, folders):
    """Tokens of each prompt with each set of adapters and without, all in flight at once."""

    def make(**settings):
        requests = [
            Request(f"{name} {number}", ids, adapter=None if name == "base" else folders / name)
            for number, ids in enumerate(PROMPTS)
            for name in ("one", "two", "base")
        ]
        how = Generate(max_new_tokens=NEW, **settings)
        found = {x.id: x.token_ids for x in engine.generate(requests, [], 0, settings=how)}
        return {
            name: [found[f"{name} {number}"] for number in range(len(PROMPTS))]
            for name in ("one", "two", "base")
        }

    return make


@pytest.mark.parametrize(("ours", "theirs"), [({}, {}), ({"beams": 3}, {"num_beams": 3})])
def test_requests_run_side_by_side_with_the_tokens_of_peft_for_each(made, folders, ours, theirs):
    found = made(**ours)
    for name, tokens in found.items():
        assert tokens == tokens_of(folders / name, PROMPTS, NEW, **theirs)
    assert found["one"] != found["two"] != found["base"] != found["one"]


def test_adapters_that_change_nothing_are_refused(folders):
    engine = Engine(folders / "base", SETTINGS, 256, 0, [folders / "one", folders / "idle"])
    requests = [Request("one", PROMPTS[0], adapter=folders / "one")]
    for _ in range(2):  # once is not let through the second time
        with pytest.raises(RunError, match="the adapters change nothing: vLLM's output is") as told:
            list(engine.generate(requests, [], 0))
    assert str(told.value).startswith(f"{folders / 'idle'}: ")


def test_a_rank_that_vllm_does_not_take_is_told(folders):
    write_adapter(folders / "base", folders / "wide", rank=520)
    with pytest.raises(RunError, match="adapters of rank 520: vLLM takes ranks up to 512"):
        Engine(folders / "base", SETTINGS, 256, 0, [folders / "one", folders / "wide"])

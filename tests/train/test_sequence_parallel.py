"""Ranks that share bins, each with a part of the row, learn together what one rank learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sumzero.errors import ConfigError
from sumzero.pipeline import prepare
from sumzero.ranks import Ranks
from sumzero.runfile import check, load
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.loop import train
from sumzero.train.sequence_parallel import check_sequence_parallel, part

from .tiny_models import TINY_RECURRENT, tiny_config, tiny_model

# Models of two layers, 4 heads and 2 key heads, but phi, of 4.
ON_TWO = [
    (kind, case, 2)
    for kind, case in [
        ("llama", "plain"),
        ("llama", "checkpointed"),
        ("llama", "stage 2"),
        ("llama", "unfused"),
        ("llama", "one key head"),
        ("llama", "frozen head"),
        ("llama", "lora"),
        ("llama", "lora checkpointed"),
        ("mistral", "plain"),
        ("qwen3", "plain"),
        ("qwen3", "checkpointed"),
        ("qwen3_moe", "plain"),
        ("gemma2", "plain"),
        ("gemma2", "checkpointed"),
        ("gemma3_text", "plain"),
        ("phi", "plain"),
    ]
]
ON_FOUR = [
    ("llama", "checkpointed", 2),
    ("gemma2", "plain", 2),
    ("qwen3", "lora", 2),
    ("llama", "plain", 4),
]


def _launch(folder, ranks, cases):
    """What the ranks found, by "kind, case, size: parameter"."""
    variants = {}
    for kind, case, size in cases:
        changes = {"num_key_value_heads": 1} if case == "one key head" else {}
        path = folder / f"{kind}{len(changes)}"
        if not path.is_dir():
            tied = kind in ("qwen3", "gemma2", "gemma3_text")
            tiny_model(kind, tie_word_embeddings=tied, **changes).save_pretrained(path)
        zero = {"stage": 2 if case == "stage 2" else 3, "stage3_param_persistence_threshold": 0}
        preset = folder / f"stage{zero['stage']}.json"
        preset.write_text(json.dumps({"zero_optimization": zero}))
        variants[f"{kind}, {case}, {size}"] = str(path), str(preset), size
    out = folder / f"found{ranks}.json"
    script = Path(__file__).with_name("shared_bins.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={ranks}", script, out),
        ],
        env={
            **os.environ,
            **{"VARIANTS": json.dumps(variants), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory):
    return _launch(tmp_path_factory.mktemp("shared_bins"), 2, ON_TWO)


@pytest.fixture(scope="module")
def found_by_four(tmp_path_factory):
    return _launch(tmp_path_factory.mktemp("shared_bins"), 4, ON_FOUR)


def _assert_equal(found, kind, case, size):
    start = f"{kind}, {case}, {size}: "
    errors = {name: x for name, x in found.items() if name.startswith(start)}
    assert errors.pop(start + "proof") <= 1e-5
    assert len(errors) > 10
    # Sums of float32 in another order; in the unequal ranks of ZeRO alone they differ by as much.
    assert all(error <= 2e-6 for error in errors.values()), max(errors, key=errors.get)


@pytest.mark.parametrize(("kind", "case", "size"), ON_TWO)
def test_loss_and_gradients_of_two_ranks_are_those_of_one_process(found_by_two, kind, case, size):
    _assert_equal(found_by_two, kind, case, size)


@pytest.mark.parametrize(("kind", "case", "size"), ON_FOUR)
def test_loss_and_gradients_of_four_ranks_are_those_of_one_process(found_by_four, kind, case, size):
    _assert_equal(found_by_four, kind, case, size)


def test_the_start_up_proof_sees_parts_that_are_put_together_wrongly(found_by_two):
    said = found_by_two["wrong order"]
    assert "gives other logits in SumZero's layers on 2 ranks (train.sequence_parallel)" in said


FAMILY = Family([11, 12, 13], (Branch([], [14, 15]), Branch([16], [17, 18, 19]), Branch([], [20])))


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("families", [[FAMILY], [FAMILY, FAMILY], []], ids=["odd", "even", "none"])
def test_parts_hold_the_row_and_each_supervised_position_once(families, size):
    whole = make_batch(families, 0, "target")
    parts = [part(whole, rank, size) for rank in range(size)]
    num_tokens, num_row = whole.input_ids.shape[1], parts[0].input_ids.shape[1] * size
    assert num_tokens <= num_row < num_tokens + size
    for name in ("input_ids", "position_ids"):
        row = torch.cat([getattr(x, name) for x in parts], dim=1)
        assert torch.equal(row[:, :num_tokens], getattr(whole, name))
    found = []
    for rank, x in enumerate(parts):
        assert x.input_ids.shape == x.position_ids.shape == (1, num_row // size)
        assert sum(x.lengths) == num_row
        assert x.lengths[: len(whole.lengths)] == whole.lengths
        assert len(x.lengths) == len(x.prefix_of) == len(whole.lengths) + (num_row > num_tokens)
        assert ((x.positions >= 0) & (x.positions < num_row // size)).all()
        row = (x.positions + rank * num_row // size).tolist()
        found += zip(row, x.labels.tolist(), x.weights.tolist(), strict=True)
    fields = (whole.positions, whole.labels, whole.weights)
    assert sorted(found) == sorted(zip(*(x.tolist() for x in fields), strict=True))


def test_what_follows_a_part_is_the_label_of_its_last_token():
    whole = make_batch([Family([11, 12], (Branch([], [13, 14, 15]),))], 0)
    first, second = (part(whole, rank, 2) for rank in range(2))
    assert first.input_ids.tolist() == [[11, 12]]
    assert (first.positions.tolist(), first.labels.tolist()) == ([1], [13])
    assert second.input_ids.tolist() == [[13, 14]]
    assert (second.positions.tolist(), second.labels.tolist()) == ([0, 1], [14, 15])


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("shared_bins")
    with (folder / "train.jsonl").open("w") as out:
        for index in range(40):
            words = [f"word{(index * 7 + k) % 23}" for k in range(5 + index % 11)]
            targets = [f"{words[0]} {words[-1]}.", f"{words[1]}."][: 1 + index % 2]
            row = {"id": index, "document": " ".join(words), "target": targets}
            out.write(json.dumps(row) + "\n")
    file = folder / "run.toml"
    file.write_text(f"""
        runs = "{folder}/runs"
        [model]
        path = "{model_folder}"
        dtype = "float32"
        [data]
        train.path = "{folder}/train.jsonl"
        max_length = 128
        instruction = "Sum up."
        [train]
        bins_per_step = 2
        max_steps = 6
        lr = 1e-3
        log_every = 1
    """)
    return file


def test_a_run_on_two_ranks_that_share_bins_learns_what_one_rank_learns(run_file, forks):
    steps = {}
    for ranks in (1, 2):
        overrides = (f"name=on{ranks}", f"train.sequence_parallel={ranks}")
        config = load(run_file, overrides)
        prepare(config)
        forks.train(run_file, *overrides, ranks=ranks)
        events = read_jsonl(RunFolder.of(config).root / "events.jsonl")
        steps[ranks] = [event for event in events if event["event"] == "step"]
    assert len(steps[1]) == len(steps[2]) == 6
    for want, found in zip(steps[1], steps[2], strict=True):
        for key in ("loss", "gradient_norm"):  # Adam makes more of a rounding at each step
            assert found[key] == pytest.approx(want[key], rel=2e-6), want["step"]
    assert steps[1][-1]["loss"] < steps[1][0]["loss"] - 0.1


def test_ranks_that_cannot_be_grouped_are_refused_before_anything_starts(run_file):
    config = load(run_file, ["name=refused", "train.sequence_parallel=2"])
    prepare(config)
    root = RunFolder.of(config).root
    before = sorted(root.rglob("*"))
    with pytest.raises(ConfigError, match=r"_parallel = 2 must divide the 3 ranks.*here: 1$"):
        train(config, Ranks(0, 3))
    assert sorted(root.rglob("*")) == before  # no lock, no event


@pytest.fixture
def share(tmp_path):
    """Asks whether ranks can share bins of a tiny model."""

    def run(kind, world=8, size=2, lora=None, max_length=64, **changes):
        tiny_config(kind, **changes).save_pretrained(tmp_path)
        training = {"sequence_parallel": size} | ({"lora": lora} if lora else {})
        values = {"name": "run", "data": {"max_length": max_length}, "train": training}
        check_sequence_parallel(check(values, "run.toml"), str(tmp_path), world)

    return run


@pytest.mark.parametrize(
    ("world", "size", "possible"), [(6, 4, "1, 2"), (6, 3, "1, 2"), (8, 8, "1, 2, 4"), (3, 4, "1")]
)
def test_what_divides_ranks_and_heads_is_named(share, world, size, possible):
    said = (
        f"_parallel = {size} must divide the {world} ranks and the 4 .* possible here: {possible}$"
    )
    with pytest.raises(ConfigError, match=said):
        share("llama", world, size)


@pytest.mark.parametrize("kind", TINY_RECURRENT)
def test_models_whose_layers_carry_a_state_are_refused(share, kind):
    layers = "conv" if kind == "lfm2" else "linear_attention"
    with pytest.raises(ConfigError, match=f"has layers of {layers}, whose state runs through"):
        share(kind)


def test_dropout_in_adapters_is_refused(share):
    with pytest.raises(
        ConfigError, match=r"lora\.dropout = 0\.1 with train\.sequence_parallel = 2"
    ):
        share("llama", lora={"dropout": 0.1})


@pytest.mark.filterwarnings("ignore:.*original_max_position_embeddings")
def test_angles_that_depend_on_the_longest_position_are_refused_where_they_would(share):
    factors = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    long = {"rope_scaling": factors, "original_max_position_embeddings": 128}
    share("phi3", max_length=128, **long)
    with pytest.raises(ConfigError, match=r"longrope.* set data\.max_length to at most 128"):
        share("phi3", max_length=129, **long)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_what_can_be_shared_is_not_refused(share, size):
    share("gemma2", size=size, lora={"rank": 2})

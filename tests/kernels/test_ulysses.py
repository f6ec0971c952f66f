"""Attention of ranks that share a row, on real ranks, against one that has it all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLAIN = {"prefix_of": None, "window": None, "softcap": None}
FAMILY = PLAIN | {"lengths": [7, 5, 1, 3, 2], "prefix_of": [-1, 0, 0, -1, 3]}
CASES = {  # R ranks, H heads, K key heads; a row of T tokens, which R divides
    "as many key heads as heads": PLAIN
    | {"ranks": 2, "heads": 4, "key_heads": 4, "lengths": [9, 3]},
    "a key head a rank": FAMILY | {"ranks": 2, "heads": 4, "key_heads": 2},
    "one key head": FAMILY | {"ranks": 2, "heads": 4, "key_heads": 1},
    "a window": FAMILY | {"ranks": 2, "heads": 4, "key_heads": 2, "window": 4},
    "a soft cap": FAMILY | {"ranks": 2, "heads": 4, "key_heads": 2, "softcap": 1.5},
    "a head a rank": FAMILY | {"ranks": 3, "heads": 3, "key_heads": 1},
    "key heads that ranks do not divide": FAMILY | {"ranks": 3, "heads": 12, "key_heads": 2},
    "more key heads than ranks, not divided": FAMILY | {"ranks": 3, "heads": 12, "key_heads": 4},
    "one token a rank": PLAIN | {"ranks": 3, "heads": 6, "key_heads": 3, "lengths": [1, 2]},
    "longer than a tile": PLAIN | {"ranks": 2, "heads": 4, "key_heads": 2, "lengths": [140, 60]},
}
# Each head is computed as by one rank, up to the strides that its products see; the gradient of a
# repeated key head is a sum of rounded parts.
TOLERANCE = {"torch.float64": 1e-14, "torch.bfloat16": 2**-7}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("ulysses") / "errors.json"
    script = Path(__file__).with_name("shared_rows.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"),
            *(script, json.dumps(CASES), out),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_are_those_of_the_whole_row(found, name, dtype):
    for errors in found[: CASES[name]["ranks"]]:
        out, *gradients = errors[f"{name}, {dtype}"]
        assert out <= TOLERANCE[dtype]
        assert len(gradients) == 3
        assert max(gradients) <= TOLERANCE[dtype]


def test_heads_that_cannot_be_divided_are_refused_on_every_rank(found):
    for errors in found[:2]:
        assert errors["refused"] == (
            "train.sequence_parallel = 2 does not divide the 3 attention heads of a layer"
        )

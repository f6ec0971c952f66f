"""slurm/serve.sbatch on a real cluster: the log says how to reach the server, and it ends well."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sumzero.config import Data, Source
from sumzero.contract import make_contract, write_contract
from sumzero.loading import load_tokenizer
from sumzero.prompt import PromptRenderer

from .runs import SCRIPTS

ASK = """
import http.client, sys
server = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
server.request("POST", "/summarize", sys.argv[2], {"Content-Type": "application/json"})
print(server.getresponse().read().decode())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, served_model):
    """A run with an export that was not trained."""
    folder = tmp_path_factory.mktemp("user")
    export = folder / "runs" / "run" / "export"
    shutil.copytree(served_model, export)
    data = Data(train=(Source(path="train"),), max_length=128)
    renderer = PromptRenderer(load_tokenizer(str(export)))
    write_contract(export, make_contract(renderer, data))
    file = folder / "run.toml"
    file.write_text("[generate]\nmax_new_tokens = 8\ncpu_kv_cache_gib = 0.25\n")
    return file


def test_it_is_reached_as_the_log_says_and_ends_when_it_is_told(cluster, run):
    environment = cluster.environment
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
        "SUMZERO_SLURM": str(SCRIPTS),
        "PYTHONWARNINGS": "ignore",
    }
    environment.pop("SUMZERO_API_KEY", None)
    command = ["sbatch", "--parsable", "--cpus-per-task=1", str(SCRIPTS / "serve.sbatch"), str(run)]
    job = int(cluster.run(command, cwd=run.parent, env=environment).stdout)
    log = run.parent / f"sumzero-serve-{job}.log"
    cluster.until(lambda: log.is_file() and "serving run" in log.read_text(), 180, "it serves")
    said = log.read_text()
    node, port = re.search(r"^node (\w+), port (\d+)$", said, re.MULTILINE).groups()
    assert re.search(
        rf"^on your own machine: ssh -N -J \w+@\S+ -L 8000:127\.0\.0\.1:{port} \w+@{node}$",
        said,
        re.MULTILINE,
    )
    assert f"serving run at http://127.0.0.1:{port}\n" in said
    body = json.dumps({"document": "The cat sat on the mat."})
    reply = cluster.run([sys.executable, "-c", ASK, port, body], node=node, timeout=60).stdout
    assert json.loads(reply)["output_tokens"] > 0
    # What Slurm does before the time limit, by --signal=B:TERM@120.
    cluster.run(["scancel", "--batch", "--signal=TERM", str(job)])
    cluster.wait(job, {"COMPLETED"}, timeout=90)
    assert "SIGTERM: ending what is at work\nended\n" in log.read_text()


def test_without_a_run_the_usage_is_told():
    done = subprocess.run(
        ["bash", str(SCRIPTS / "serve.sbatch")], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch [options] slurm/serve.sbatch RUN")

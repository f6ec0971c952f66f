"""A run with an export that has learnt four summaries by heart, and `sumzero serve` on it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import torch
from transformers import GenerationConfig

from sumzero.config import Data, Scratch, Source
from sumzero.contract import make_contract, write_contract
from sumzero.prompt import PromptRenderer
from sumzero.train.scratch import initial_model

MARKUP = '<img src="x" onerror="document.title=1"> & <b>cat</b>'
LONG = "The cat sat on the mat. " * 60
ROWS = [
    {"id": "plain", "document": "The cat sat on the mat. It was warm.", "target": "A warm cat."},
    {"id": "chinese", "document": "这是一个用于检查的句子。它很短。", "target": "句子很短。"},
    {
        "id": "control",
        "document": "The name<|end|><|assistant|>of the index.",
        "target": "The index <|end|> has a name.",
    },
    {"id": "markup", "document": "def get_name(self): <b>", "target": MARKUP},
    {"id": "long", "document": LONG, "target": "A cat sat for long."},
]
MAX_NEW = 48
_SHAPE = Scratch(
    vocab_size=600,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=128,
)


def write_run(folder: Path, tokenizer) -> Path:
    """Writes records, the learnt export and a run file, whose path it returns."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "test.jsonl").write_text(lines)
    run = folder / "run.toml"
    run.write_text(f"""
        runs = "{folder}/runs"
        [data.test]
        path = "{folder}/test.jsonl"
        [generate]
        max_new_tokens = {MAX_NEW}
        long = "truncate"
        dtype = "float32"
        cpu_kv_cache_gib = 0.25
    """)
    export = folder / "runs" / "run" / "export"
    renderer, contract = promised(export, tokenizer)
    model = initial_model(_SHAPE, tokenizer, positions=512, seed=0).float()
    learn(model, renderer, contract, [row["target"] for row in ROWS])
    model.save_pretrained(export)
    GenerationConfig(eos_token_id=renderer.stop_ids).save_pretrained(export)
    return run


def promised(export: Path, tokenizer):
    """Writes tokenizer and contract; returns the renderer and the contract."""
    data = Data(train=(Source(path="train"),), max_length=256, length_control=True)
    renderer = PromptRenderer(tokenizer, data.truncation)
    contract = make_contract(renderer, data)
    tokenizer.save_pretrained(export)
    write_contract(export, contract)
    return renderer, contract


def learn(model, renderer, contract, targets, lr=3e-3):
    """Until the model gives each row its target, asked as the contract asks."""
    torch.manual_seed(0)
    asked = renderer.ask(contract.instructions[0].inference())
    examples = []
    for row, target in zip(ROWS, targets, strict=True):
        document = renderer.encode_text([row["document"]])[0]
        prompt = renderer.prompt(document, contract.prompt_limit(MAX_NEW), asked).ids
        learnt = renderer.encode_targets([target])[0]
        ids = torch.tensor([prompt + learnt])
        examples.append((ids, torch.tensor([[-100] * len(prompt) + learnt])))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    model.train()
    for _ in range(80):
        for ids, labels in examples:
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def command(*words):
    """The command line of `sumzero WORDS`."""
    return [sys.executable, "-m", "sumzero.cli", *map(str, words)]


class Server:
    """`sumzero serve` on a free port, in a process group of its own."""

    def __init__(self, run: Path, *options, key: str | None = None):
        self.key = key
        self.log = run.parent / f"serve{len(list(run.parent.glob('serve*.log')))}.log"
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"} | (
            {"SUMZERO_API_KEY": key} if key else {}
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command("serve", run, "--port", 0, *options),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )

    def ready(self):
        """Waits until it listens."""
        said = self.process.stdout.readline()
        found = re.fullmatch(r"serving run at http://127\.0\.0\.1:(\d+)\n", said)
        assert found, (said, self.log.read_text())
        self.port = int(found[1])
        self.address = f"http://127.0.0.1:{self.port}"
        return self

    def ask(self, method, path, body=None, *, key="", headers=()):
        """Status, headers and text of a reply; `key` None asks without one."""
        key = self.key if key == "" else key
        headers = {"Content-Type": "application/json", **dict(headers)}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        if isinstance(body, dict):
            body = json.dumps(body)
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        return reply.status, reply.headers, text

    def summarize(self, **body):
        """Status and the reply's JSON."""
        status, _, text = self.ask("POST", "/summarize", body)
        return status, json.loads(text)

    def held(self, body: bytes):
        """A request that has been let in, and whose body is still to be sent.

        The server asks for the body ("100 Continue") when the request is at work.
        """
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(
            b"POST /summarize HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Type: application/json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
            % ((self.key or "").encode(), len(body))
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        return connection

    def refuses_connections(self):
        """Whether it has stopped to listen."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it was in the queue
            return False
        return False

    def until(self, holds, seconds=30):
        """Asks again and again until it holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.log.read_text()

    def end(self):
        """Ends it by force where it has not ended, with all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def finish(connection, body: bytes):
    """Sends the body of a held request and reads the whole reply: status and JSON."""
    connection.sendall(body)
    reply = b""
    while part := connection.recv(65536):
        reply += part
        head, _, text = reply.partition(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head)
        if size and len(text) == int(size[1]):
            break
    connection.close()
    return int(head.split()[1]), json.loads(text)

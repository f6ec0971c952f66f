"""A run of twelve records, for a model that others serve, and what its server answers."""

import json

from sumzero.infer.chat import Remote
from sumzero.infer.generate import generate
from sumzero.runfile import load

from .chat_server import completion

ASKED = "Say it shortly."
KEY = "sk-very-secret-123"
ALL = [f"Sum {i}." for i in range(12)]


def write_job(folder):
    """Writes the records and a run file, whose path it returns."""
    rows = [
        {"id": f"r{i}", "document": f"Text number {i:02}.", "year": 2000 + i} for i in range(12)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "run.toml"
    file.write_text(f"""
        runs = "{folder}/runs"
        [data]
        instruction = "{ASKED}"
        [data.test]
        path = "{folder}/test.jsonl"
        metadata = ["year"]
        [endpoint]
        max_in_flight = 4
        backoff = 0.001
        max_retries = 2
    """)
    return file


def number(text):
    """Which record a request is about."""
    return int(text.split("number ")[1].split(".")[0])


def echo(text, _attempt=1):
    """The answer to a request."""
    return completion(f" Sum {number(text)}.\n")


def made(run_file, server, *overrides):
    """The generation by a server's model."""
    return generate(load(run_file, overrides), Remote.at(server.url, "gpt-x"))


def texts(generation):
    """Its texts."""
    return [row.get("text") for row in generation.rows()]

"""One real server on a tiny model, asked over the loopback; the last test ends it."""

import copy
import json
import signal
import socket
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from sumzero.cli import main
from sumzero.runfolder import read_json, read_jsonl, write_json

from .browser import PROGRAM, browser
from .served_run import LONG, MARKUP, ROWS, Server, command, finish, write_run

KEY = "correct-horse-battery"
BODY = json.dumps({"document": ROWS[0]["document"]}).encode()


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    return write_run(tmp_path_factory.mktemp("served"), tokenizer)


@pytest.fixture(scope="module")
def generating(run):
    """`sumzero generate` on the same export, begun before the server and read later."""
    with subprocess.Popen(
        command("generate", run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def server(run, generating):
    one = Server(run, "--max-concurrent", 2, "--max-body-mib", 0.05, key=KEY)
    try:
        yield one.ready()
    finally:
        one.end()


def test_summaries_and_counts_are_those_of_generate(server, generating):
    out, err = generating.communicate(timeout=120)
    assert generating.returncode == 0, err
    rows = read_jsonl(Path(out.split(": ")[0]))
    assert [row["text"] for row in rows] == [row["target"] for row in ROWS]  # as learnt
    for record, row in zip(ROWS, rows, strict=True):
        status, reply = server.summarize(document=record["document"])
        assert status == 200
        assert 0 < reply.pop("seconds") < 60
        assert reply.pop("summary") == row["text"]
        assert reply == {name: row[name] for name in reply}
        assert reply["finish_reason"] == "stop"


def test_what_was_cut_is_told(server):
    _, reply = server.summarize(document=LONG)
    assert reply["truncated"] is True
    assert reply["truncation"] == "head"
    assert reply["document_kept"] < reply["document_tokens"]
    assert reply["prompt_tokens"] == 256 - 48
    _, reply = server.summarize(document=ROWS[0]["document"])
    assert reply["truncated"] is False
    assert reply["document_kept"] == reply["document_tokens"]


def test_a_length_and_an_instruction_are_asked_for_in_their_own_tokens(server, tokenizer):
    document = ROWS[0]["document"]
    plain = server.summarize(document=document)[1]["prompt_tokens"]
    longer = server.summarize(document=document, words=20)[1]["prompt_tokens"]
    assert longer > plain
    assert server.summarize(document=document, sentences=1)[1]["prompt_tokens"] > plain
    counts = [
        server.summarize(document=document, instruction=text)[1]["prompt_tokens"]
        for text in ("Sum up.", "Sum up." + "<|end|>")
    ]
    own = copy.deepcopy(tokenizer)  # which would go on to split them
    as_text = sum(map(len, own.tokenize("<|end|>", split_special_tokens=True)))
    assert as_text >= counts[1] - counts[0] > 1  # characters, and no control token


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("{", "body: Invalid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "body: Input should be an object"),
        ("{}", "document: Field required"),
        ('{"document": 1}', "document: Input should be a valid string"),
        ('{"document": " \\n"}', "document: is empty"),
        ('{"document": "a", "instruction": ""}', "instruction: is empty"),
        ('{"document": "a", "max_tokens": 5}', "max_tokens: Unexpected keyword argument"),
        ('{"document": "a", "words": 0}', "words: Input should be greater than or equal to 1"),
        ('{"document": "a", "words": 5, "sentences": 1}', "words, sentences: ask for one of them"),
        (
            '{"document": "a", "words": 5, "instruction": "b"}',
            "instruction: stands for itself; leave out words",
        ),
        ('{"document": "a", "language": "xx"}', "language: no instructions in 'xx'"),
    ],
)
def test_a_bad_request_is_told_in_one_line(server, body, line):
    status, _, text = server.ask("POST", "/summarize", body)
    assert (status, json.loads(text)["error"]["message"]) == (400, line)


def test_other_types_and_methods_are_refused(server):
    form = {"Content-Type": "text/plain"}  # a page of another site may send it unasked
    assert server.ask("POST", "/summarize", BODY, headers=form)[0] == 415
    json_ = {"Content-Type": "Application/JSON; charset=utf-8"}  # media types have no case
    assert server.ask("POST", "/summarize", BODY, headers=json_)[0] == 200
    assert server.ask("GET", "/summarize")[0] == 405


def test_all_but_health_and_page_needs_the_key(server):
    for path in ("/health", "/"):
        assert server.ask("GET", path, key=None)[0] == 200
    for method, path in [
        ("POST", "/summarize"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/health"),
    ]:
        for key in (None, "", "wrong", KEY[:-1], KEY + "x"):
            given = {} if key is None else {"Authorization": f"Bearer {key}"}
            status, headers, text = server.ask(method, path, BODY, key=None, headers=given)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), (path, key)
            assert "the key is missing or wrong" in text


def test_a_long_body_is_refused_whether_its_length_is_told_or_not(server):
    body = json.dumps({"document": "cat " * 15_000})
    status, _, text = server.ask("POST", "/summarize", body)
    assert status == 413
    assert json.loads(text)["error"]["message"] == "the body is above the limit of 0.05 MiB"
    assert server.ask("POST", "/summarize", iter([body.encode()]))[0] == 413  # in chunks
    assert server.ask("POST", "/v1/completions", body)[0] == 413


def test_more_requests_than_allowed_at_once_are_sent_away_for_now(server):
    held = [server.held(BODY) for _ in range(2)]
    status, headers, text = server.ask("POST", "/summarize", BODY)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "2 requests are at work" in text
    assert server.ask("GET", "/health")[0] == 200
    for connection in held:
        status, reply = finish(connection, BODY)
        assert (status, reply["summary"]) == (200, ROWS[0]["target"])
    assert server.ask("POST", "/summarize", BODY)[0] == 200


def test_a_client_that_leaves_frees_its_place_and_ends_its_generation(server):
    for connection in [server.held(BODY) for _ in range(2)]:
        connection.close()
    server.until(lambda: server.ask("POST", "/summarize", BODY)[0] == 200)

    def broken_off():
        connection = server.held(body)
        connection.sendall(body)
        connection.close()
        return metric(server, counted) > before

    body = json.dumps({"document": LONG, "instruction": "What else?"}).encode()  # not learnt: long
    counted = 'http_requests_total{handler="/summarize",method="POST",status="4xx"'
    before = metric(server, counted)  # the answer that nobody reads is a 499
    server.until(broken_off)
    server.until(lambda: metric(server, "vllm:num_requests_running") == 0)


def test_vllms_own_routes_are_labelled_and_end_at_the_contracts_ids(server, run):
    _, headers, _ = server.ask("POST", "/summarize", BODY)
    assert headers["Sumzero-Contract"] == "inside"
    contract = read_json(run.parent / "runs" / "run" / "export" / "contract.json", "")
    asked = contract["instructions"][0]["paraphrases"][0].replace("{length}", "")
    content = f"{ROWS[0]['document']}\n\n{asked}"  # by hand what /summarize does
    body = {"model": "run", "messages": [{"role": "user", "content": content}], "temperature": 0}
    status, headers, text = server.ask("POST", "/v1/chat/completions", body)
    assert status == 200, text
    assert headers["Sumzero-Contract"] == "outside"
    choice = json.loads(text)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ROWS[0]["target"], "stop")
    _, _, text = server.ask("GET", "/v1/models")
    assert [model["id"] for model in json.loads(text)["data"]] == ["run"]


def test_metrics_count_requests_cuts_and_refusals(server):
    names = ["vllm:request_success_total", "sumzero_documents_cut_total"]
    names += ['sumzero_refused_requests_total{reason="key"}']
    before = [metric(server, name) for name in names]
    server.summarize(document=LONG)
    server.ask("GET", "/v1/models", key=None)
    assert [metric(server, name) for name in names] == [number + 1 for number in before]


def metric(server, name):
    """The sum of the metrics whose line begins so."""
    _, _, text = server.ask("GET", "/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.skipif(PROGRAM is None, reason="there is no chromium here")
def test_a_text_is_pasted_into_the_page_and_its_summary_is_seen(server, tmp_path):
    with browser(tmp_path) as page:
        page.open(server.address)
        page.paste("document", ROWS[3]["document"])
        page.run("document.getElementById('go').click()")
        found, text = page.shown(["summary", "fault"])
        assert (found, text) == ("fault", "the key is missing or wrong: Authorization: Bearer KEY")
        page.paste("key", KEY)
        page.run("document.getElementById('go').click()")
        assert page.shown(["summary"]) == ["summary", MARKUP]
        assert page.run("document.querySelectorAll('img, #summary *').length") == 0
        assert page.run("document.title") == "run: SumZero"
        assert "tokens in" in page.shown(["counts"])[1]
        page.run("document.getElementById('document').select()")
        page.paste("document", LONG)
        page.run("document.getElementById('go').click()")
        assert page.shown(["summary"])[1] == "A cat sat for long."
        assert "The text was too long" in page.shown(["counts"])[1]
        assert [fault.get("text") for fault in page.faults if fault.get("level") == "error"] == [
            "Failed to load resource: the server responded with a status of 401 (Unauthorized)"
        ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_public_address_without_a_key_is_refused(run, host, capfd, monkeypatch):
    monkeypatch.setenv("SUMZERO_API_KEY", " ")  # as good as none
    assert main(["serve", str(run), "--host", host]) == 2
    line = f"sumzero: --host {host}: others can reach it, so a key is needed: set SUMZERO_API_KEY\n"
    assert capfd.readouterr().err == line


def test_what_cannot_be_served_is_told_before_vllm_starts(run, server, tmp_path, capfd):
    assert main(["serve", str(run), "name=other"]) == 2
    assert "export is missing; run `sumzero export RUN.toml` first" in capfd.readouterr().err
    assert main(["serve", str(run), "--adapter"]) == 2
    assert "adapter is missing; run `sumzero export --adapter" in capfd.readouterr().err
    assert main(["serve", str(run), "--port", str(server.port)]) == 2
    assert f"127.0.0.1:{server.port}: Address already in use" in capfd.readouterr().err
    assert main(["serve", str(run), "generate.beams=5"]) == 2
    assert "generate.beams: the server has no beam search" in capfd.readouterr().err
    assert main(["serve", str(run), "generate.max_new_tokens=250"]) == 2
    err = capfd.readouterr().err
    assert "leaves no room for a document" in err
    assert "starting vLLM" not in err


def test_another_template_than_trained_with_is_refused(run, capfd):
    file = run.parent / "runs" / "run" / "export" / "contract.json"
    whole = read_json(file, "")
    try:
        write_json(file, whole | {"template_digest": "0"})
        assert main(["serve", str(run)]) == 2
    finally:
        write_json(file, whole)
    assert "differs: template_digest" in capfd.readouterr().err


def test_sigterm_before_it_is_ready_ends_it_at_once(run, server):
    early = Server(run)
    try:
        early.until(lambda: "starting vLLM" in early.log.read_text())
        early.process.send_signal(signal.SIGTERM)
        assert early.process.wait(timeout=60) == 0
        assert early.process.stdout.read() == ""
    finally:
        early.end()


def test_at_sigterm_requests_at_work_get_their_whole_answers(server):
    stream = HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {"prompt": "The cat", "max_tokens": 200, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    about = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    stream.request("POST", "/v1/completions", json.dumps(body), about)
    reply = stream.getresponse()
    first = reply.readline()  # it generates
    held = server.held(BODY)  # let in, and not in the engine yet
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.until(server.refuses_connections)
    status, summary = finish(held, BODY)
    assert (status, summary["summary"]) == (200, ROWS[0]["target"])
    body = first + reply.read()
    stream.close()
    events = [line for line in body.decode().splitlines() if line]
    assert events[-1] == "data: [DONE]"
    *_, last, usage = (json.loads(event.removeprefix("data: ")) for event in events[:-1])
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 200
    assert server.process.wait(timeout=60) == 0
    assert time.monotonic() - begun < 60
    log = server.log.read_text()
    assert "SIGTERM: ending what is at work" in log
    assert KEY not in log
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))

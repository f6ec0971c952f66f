"""An array of tasks that generate, on two nodes: some are stopped, every input is answered once."""

import json
import os
import shutil
import signal

from sumzero.infer.generation import finished_generations
from sumzero.runfolder import RunFolder

from .chains import submitted
from .runs import write_rows

TASKS = range(3)  # one is killed, one told to end, one left alone
ROWS = 150
STEPS = ("--steps=generate,score", f"--shards={len(TASKS)}", "--sbatch=--cpus-per-task=2")
SLOW = ("generate.max_in_flight=1", "generate.max_new_tokens=40")  # to be stopped on the way


def rows_of(run, task):
    """The rows that a task has written so far."""
    files = list(run.generations.glob(f"*/shard-{task:05d}-of-{len(TASKS):05d}.jsonl"))
    text = files[0].read_text() if files else ""
    return [line for line in text.split("\n") if line.endswith("}")]


def at_work(run, tasks=TASKS):
    """The tasks that have written some rows, and have many more to write."""
    return [task for task in tasks if 2 < len(rows_of(run, task)) < ROWS // len(TASKS) // 2]


def process_of(cluster, task):
    """The number of the process that generates a task's shard."""
    found = [
        number
        for node in cluster.nodes
        for number, line in cluster.processes(node).items()
        if line.startswith("python") and f"--shard {task}/{len(TASKS)}" in line
    ]
    assert len(found) == 1, found
    return found[0]


def test_a_killed_task_is_all_that_is_done_again_and_each_input_answered_once(cluster, chain, user):
    run = RunFolder(user.folder / "my runs" / "array")
    shutil.copytree(chain[0].export, run.export)
    rows = [{"id": i, "document": f"word{i} " * (1 + i % 9), "target": "x"} for i in range(ROWS)]
    write_rows(user.folder / "many.jsonl", rows)
    argv = ("submit", user.file, "name=array", "runs=my runs", "data.test.path=many.jsonl")
    argv += (*SLOW, *STEPS)
    user.sumzero(*argv)
    first = submitted(run)
    generate = first["generate"]
    # The first to write rows is killed, the next is told that its time is nearly over.
    one = cluster.until(lambda: at_work(run), 240, "a task has written rows")[0]
    os.kill(process_of(cluster, one), signal.SIGKILL)
    killed = rows_of(run, one)
    assert 2 < len(killed) < ROWS // len(TASKS)
    left = set(TASKS) - {one}
    two = cluster.until(lambda: at_work(run, left), 240, "another one has written rows")[0]
    cluster.run(["scancel", "--batch", "--signal=USR1", f"{generate}_{two}"])
    cluster.wait(f"{generate}_{two}", {"COMPLETED"}, restarts=1, timeout=240)
    record = cluster.wait(f"{generate}_{one}", {"FAILED"})
    assert record["ExitCode"] == "137:0"
    for task in left:
        cluster.wait(f"{generate}_{task}", {"COMPLETED"}, timeout=240)
    nodes = {cluster.job(f"{generate}_{task}")["NodeList"] for task in TASKS}
    assert nodes == {"node1", "node2"}
    cluster.wait(first["score"], {"CANCELLED"}, timeout=60)
    said = user.sumzero("status", user.file, "name=array", "runs=my runs")
    assert f"FAILED (tasks {one} failed" in said
    assert f"generate-{generate}_{one}.log" in said
    assert finished_generations(run) == {}
    done = {task: rows_of(run, task) for task in left}

    user.sumzero(*argv)
    again = submitted(run)
    cluster.wait(again["score"], {"COMPLETED"}, timeout=300)
    for task, lines in done.items():
        assert rows_of(run, task) == lines, "what was there stays"
    assert rows_of(run, one)[: len(killed)] == killed
    (made,) = [x for name, x in finished_generations(run).items() if name == "finetuned"]
    assert [int(row["id"]) for row in made.rows()] == list(range(ROWS))
    assert made.manifest["rows"] == ROWS
    assert json.loads(run.scores.read_text())["systems"]["finetuned"]["rows"] == ROWS

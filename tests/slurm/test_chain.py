"""A whole chain of jobs through `sumzero submit`: records to scores, with real training and vLLM.

The user stands in a folder with a hostile name. The training is asked to end on its way, goes back
into the queue and on; the chain behind it waits for it. Checkpoints are scored beside it.
"""

import json

from sumzero.infer.generation import finished_generations
from sumzero.runfolder import read_jsonl
from sumzero.status import status, table

from .chains import JOBS, SMALL
from .runs import events


def test_a_chain_goes_from_records_to_scores(chain):
    run, jobs, said = chain
    assert list(jobs) == JOBS
    assert len(events(run, "preempted")) == 1
    assert [x["ranks"] for x in events(run, "start")] == [2, 2]
    ids = [row["id"] for row in read_jsonl(run.root.parents[1] / "rows.jsonl")]
    made = finished_generations(run)
    assert [int(row["id"]) for row in made["finetuned"].rows()] == ids
    scores = json.loads(run.scores.read_text())["systems"]
    assert list(scores) == ["lead1", "lead3", "finetuned"]
    assert run.report.is_file()
    for step in JOBS:
        assert jobs[step] in said


def test_nothing_of_a_name_is_run_by_a_shell(chain, user):
    found = [path for path in user.folder.parent.rglob("hacked*")]
    assert found == []
    assert sorted(path.name for path in (chain[0].root / "logs").iterdir()) == sorted(
        f"{step}-{job}{task}.log"
        for step, job in chain[1].items()
        for task in (["_0", "_1"] if step == "generate" else [""])
    )


def test_status_knows_how_the_jobs_ended_also_when_slurm_does_not(chain, user):
    run, jobs, _ = chain
    by_queue = json.loads(user.sumzero("status", run.root, "--json"))
    by_logs = status(run)  # outside of the cluster nobody answers
    for found in (by_queue, by_logs):
        assert [(job["step"], job["job"], job["state"]) for job in found["jobs"]] == [
            (step, jobs[step], "COMPLETED") for step in JOBS
        ]
    assert "score-checkpoints job" in table(by_logs)


def test_each_checkpoint_was_scored_and_the_best_exported(chain):
    run, _, _ = chain
    scores = {}
    for file in (run.root / "scored").glob("*/scores.json"):
        found = json.loads(file.read_text())["systems"]["finetuned"]["metrics"]
        scores[file.parent.name] = found["rougeL"]["value"]
    whole = {path.name for path in run.checkpoints.glob("step-*")}
    assert "step-000040" in whole
    assert len(whole) == 2, "the one that was saved before the job was requeued, too"
    assert scores.keys() == whole
    best = (run.checkpoints / "best-rouge").readlink().name
    assert scores[best] == max(scores.values())
    exported = json.loads((run.export / "export.json").read_text())
    assert exported["checkpoint"] == best
    exports = [path.parent.name for path in (run.root / "scored").glob("*/export")]
    assert exports == [best]


def test_a_finished_chain_is_not_run_twice(cluster, chain, user):
    argv = ("submit", user.file, "name=whole", "runs=my runs", "--score-checkpoints", SMALL)
    said = user.sumzero(*argv, "--nodes=2", "--shards=2")
    assert [line.split()[2] for line in said.splitlines()[1:7]] == ["done"] * 6
    assert not cluster.run(["squeue", "-h"]).stdout


def test_for_other_settings_only_what_depends_on_them_is_run_again(cluster, chain, user):
    argv = ("submit", user.file, "name=whole", "runs=my runs", "generate.max_new_tokens=9")
    said = user.sumzero(*argv, "--nodes=1", "--shards=1", SMALL, "--sbatch=--begin=now+1hour")
    assert [line.split()[2] for line in said.splitlines()[1:6]] == [
        # Without the scores of checkpoints it is the last one that is exported.
        *("done", "done", "submitted", "submitted", "submitted")
    ]

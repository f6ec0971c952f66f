"""A generation whose requests are answered elsewhere, in OpenAI's batch files: out, and in again.

Both are done as by the one shard of a generation, and can be done again: only records that have no
row are asked, and only their answers are taken.
"""

from functools import partial
from pathlib import Path

import numpy as np

from sumzero.config import RunConfig
from sumzero.infer.batch_files import Results, write_requests
from sumzero.infer.chat import Remote
from sumzero.infer.job import open_job
from sumzero.infer.rows import there
from sumzero.infer.shards import Shard, append


def write_batch(
    config: RunConfig, remote: Remote, file: Path, input_file: str | None = None
) -> dict[Path, int]:
    """Writes requests for the records that have no row yet; returns how many are in each file.

    Raises as `generate`, and as `batch_files.write_requests`.
    """
    job, shard = open_job(config, remote, input_file), Shard(0, 1)
    assert job.chat
    with shard.held(job.where):
        todo = np.flatnonzero(~there(job.where, job.inputs).has)
        asked = partial(job.chat.each, job.inputs.of(todo))
        files = write_requests(file, ((row["id"], body) for row, body in asked() if body))
        append(shard.file(job.where), (row for row, body in asked() if not body))
    return files


def read_batch(
    config: RunConfig, remote: Remote, files: list[Path], input_file: str | None = None
) -> tuple[Path, int, int]:
    """Takes rows from what batches have answered; returns as `generate_shard`.

    Raises as `generate`, and as `batch_files.Results`.
    """
    job, shard = open_job(config, remote, input_file), Shard(0, 1)
    assert job.chat
    results = Results(files, job.inputs)
    results.tell(job.chat)
    with shard.held(job.where):
        has = there(job.where, job.inputs).has
        append(shard.file(job.where), results.rows(job.chat, has))
    return job.progress()

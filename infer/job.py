"""What is to be generated: inputs, by which system, and the folder that its rows are in.

The folder is called by a fingerprint, a hash over weights, contract, sampling, engine version and
input: a generation goes on only under the same one, so rows of different settings never mix.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sumzero.config import RunConfig, Source
from sumzero.errors import ConfigError, RunError
from sumzero.infer.chat import Chat, Remote
from sumzero.infer.echo import VERSION as ECHO
from sumzero.infer.fingerprint import fingerprint
from sumzero.infer.fit import check_fit
from sumzero.infer.inputs import Inputs, open_inputs
from sumzero.infer.rows import there
from sumzero.runfolder import RunFolder

if TYPE_CHECKING:  # it loads torch, which a generation without a model does not need
    from sumzero.infer.answering import Model

_WITHOUT_MODEL = ("lead1", "lead3", "echo")


@dataclass(frozen=True)
class Job:
    """A system's generation: its fingerprint is over `made_by`, the manifest has `about` besides.

    Its rows are made by `model`, by `chat` with a model that others serve, or without either.
    """

    config: RunConfig
    system: str
    inputs: Inputs
    model: "Model | None"
    chat: Chat | None
    made_by: dict[str, Any]
    about: dict[str, Any]
    where: Path

    def progress(self) -> tuple[Path, int, int]:
        """The folder, and how many rows are there, of how many."""
        return self.where, len(there(self.where, self.inputs)), len(self.inputs)


def open_job(config: RunConfig, system: str | Remote, input_file: str | None) -> Job:
    """The job of one of SYSTEMS, or of a model that others serve.

    Raises DataError, ConfigError or RunError for what the user can mend.
    """
    if isinstance(system, Remote):
        inputs = read_inputs(config, system.model, input_file)
        chat = Chat(config, system, inputs)
        return job_of(config, system.model, inputs, chat.made_by, input_file, chat=chat)
    sources = _sources(config, system, input_file)
    export = RunFolder.of(config).export
    if system not in _WITHOUT_MODEL and not export.is_dir():
        raise RunError(f"{export} is missing; run `sumzero export RUN.toml` first")
    inputs = open_inputs(RunFolder.of(config).inputs, sources)
    if system in _WITHOUT_MODEL:
        made_by: dict[str, Any] = {"input": inputs.documents}
        if system == "echo":
            sampling = {"max_new_tokens": config.generate.max_new_tokens}
            made_by |= {"engine": ECHO, "sampling": sampling}
        return job_of(config, system, inputs, made_by, input_file)
    from sumzero.infer.answering import open_model

    model, made_by = open_model(config, system, inputs)
    return job_of(config, system, inputs, made_by, input_file, model=model)


def job_of(
    config: RunConfig,
    system: str,
    inputs: Inputs,
    made_by: dict[str, Any],
    input_file: str | None,
    *,
    model: "Model | None" = None,
    chat: Chat | None = None,
) -> Job:
    """The job that is made so. Raises ConfigError where a document does not fit into a prompt."""
    made_by = {"system": system, "documents": inputs.documents, **made_by}
    about = {}
    if input_file is not None:
        made_by["split"] = "input"
        about["input_file"] = input_file
    where = RunFolder.of(config).generations / fingerprint(made_by)
    if model and not where.is_dir():  # else it was begun, and so checked
        check_fit(model, inputs, config.generate)
    return Job(config, system, inputs, model, chat, made_by, about, where)


def read_inputs(config: RunConfig, system: str, input_file: str | None) -> Inputs:
    """What a system is to generate for."""
    return open_inputs(RunFolder.of(config).inputs, _sources(config, system, input_file))


def _sources(config: RunConfig, system: str, input_file: str | None) -> tuple[Source, ...]:
    if input_file is not None:
        return (_source_of(config, system, input_file),)
    if not config.data.test:
        raise ConfigError(
            "data.test: no records to generate for; set data.test.path, or --input FILE"
        )
    return config.data.test


def _source_of(config: RunConfig, system: str, file: str) -> Source:
    """A file with the columns of the run's first source; what is for data sets alone is not its."""
    given = (*config.data.test, *config.data.train, Source(path=file))[0]
    lead = given.lead if system == "lead1" else None  # nothing else reads it
    return replace(given, path=file, subset=None, split=None, revision=None, lead=lead)

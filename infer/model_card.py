"""The export's README.md: a model card with the numbers that were measured.

Its front matter is the Hub's (huggingface_hub's `ModelCardData`): base, data sets and languages,
and the scores as a model index. A README.md that is not as we wrote it is the user's and stays.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from sumzero import __version__
from sumzero.config import RunConfig, Source
from sumzero.infer import score_markdown
from sumzero.infer.comparison import Column
from sumzero.infer.metric_names import title
from sumzero.infer.report_page import environment
from sumzero.infer.scored import Scored
from sumzero.log import logger
from sumzero.runfolder import atomic_file
from sumzero.stamp import is_ours, stamped
from sumzero.weights_digest import weights_digest

SYSTEM = "finetuned"
"""The system that an export is."""
_TYPES = {"rouge": "rouge", "bleu": "bleu", "chrf": "chrf", "exact": "exact_match", "f1": "f1"}
"""The Hub's names of metrics, by how ours begin."""


def write_model_card(run: Scored, told: dict[str, Any]) -> Path | None:
    """Writes the card of a run's export, and returns its path; None where none was written.

    That is where the run has no export, its own model was not scored, the export has other weights
    than those scored, or its README.md is the user's. `told` is what the report tells of the run.
    """
    folder = run.folder.export
    if not folder.is_dir() or SYSTEM not in run.systems:
        return None
    file = folder / "README.md"
    if file.is_file() and not is_ours(file):
        logger.info("%s: is not as SumZero wrote it, and stays; remove it for a new one", file)
        return None
    scored = run.generations[SYSTEM].manifest.get("weights")
    if scored != weights_digest(folder):
        logger.warning(
            "%s: no model card, since the scores are those of other weights than it has; run "
            "`sumzero generate` and `sumzero score` again",
            folder,
        )
        return None
    text = model_card(run, told)
    with atomic_file(file) as out:
        out.write(text.encode("utf-8", "replace").decode())
    return file


def model_card(run: Scored, told: dict[str, Any]) -> str:
    """The card's text: front matter, body and stamp."""
    config = run.config
    names = [SYSTEM, *(name for name in run.systems if name != SYSTEM)]
    columns = [Column(name, run, name) for name in names]
    engine = environment()
    engine.filters["code"] = score_markdown.code
    train = (told["data"] or {}).get("splits", {}).get("train")
    export = told["export"] or {}
    body = engine.get_template("model_card.md.jinja").render(
        name=config.name,
        version=__version__,
        base=_base(config, export),
        tasks=_tasks(config.data.train),
        documents=train and train["examples"],
        targets=train and train["targets"],
        scores=score_markdown.scores(columns),
        signatures=score_markdown.signatures(columns[0]),
        settings=_generated_by(run.generations[SYSTEM].manifest),
        asked=run.generations[SYSTEM].manifest.get("asked", [])[:5],
        sources=config.data.train,
        train=train,
        steps=(told["plan"] or {}).get("steps"),
        checkpoint=export.get("checkpoint"),
        recipe=_recipe(config),
        machine=told["machine"],
        rows=run.systems[SYSTEM]["rows"],
        tests=" and ".join(score_markdown.code(source.path) for source in config.data.test),
        max_length=config.data.max_length,
    )
    return stamped(f"---\n{_front_matter(run, export)}\n---\n\n{body}")


def _front_matter(run: Scored, export: dict[str, Any]) -> str:
    config = run.config
    sources = config.data.train or config.data.test
    base = _base(config, export)
    is_local = base is None or Path(base).exists() or Path(base).is_absolute()
    from_hub = [s.path.removeprefix("hub:") for s in config.data.train if s.path[:4] == "hub:"]
    data = ModelCardData(
        language=sorted({source.target_language or source.language for source in sources}),
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=None if is_local else base,
        datasets=sorted(set(from_hub)) or None,
        tags=["sumzero", *sorted({_TASKS[source.task] for source in sources})],
        model_name=config.name,
        eval_results=_results(run),
    )
    return str(data.to_yaml(line_break="\n")).rstrip("\n")


_TASKS = {
    "summarize": "summarization",
    "answer": "question-answering",
    "translate": "translation",
}
"""The Hub's names of tasks."""


def _results(run: Scored) -> list[EvalResult]:
    tests = run.config.data.test
    name = ", ".join(Path(source.path).name for source in tests)
    task = _TASKS[tests[0].task]
    column = Column(SYSTEM, run, SYSTEM)
    return [
        EvalResult(
            task_type=task,
            dataset_type=name,
            dataset_name=name,
            metric_type=next((t for k, t in _TYPES.items() if metric.startswith(k)), metric),
            metric_name=title(metric),
            metric_value=round(column.metrics[metric]["value"], 4),
        )
        for metric in score_markdown.shown_metrics([column])
    ]


def _base(config: RunConfig, export: dict[str, Any]) -> str | None:
    """The model that was trained; None where it was made from scratch."""
    return None if config.model.path == "scratch" else str(export.get("base", config.model.path))


def _tasks(sources: tuple[Source, ...]) -> str:
    return " and ".join(sorted({source.task for source in sources})) or "summarize"


def _recipe(config: RunConfig) -> str:
    train = config.train
    adapters = f"adapters of rank {train.lora.rank}, " if train.lora else ""
    return (
        f"{adapters}{train.epochs:g} epochs, learning rate {train.lr:g} ({train.schedule}), "
        f"{config.model.dtype}, at most {config.data.max_length:,} tokens an example"
    )


def _generated_by(manifest: dict[str, Any]) -> str:
    sampling = manifest.get("sampling", {})
    keys = ("temperature", "beams", "max_new_tokens", "long")
    told = ", ".join(f"{key} = {sampling[key]}" for key in keys if key in sampling)
    return f"Generated by {score_markdown.code(str(manifest.get('engine')))}" + (
        f" with {score_markdown.code(told)}." if told else "."
    )

"""Every setting of a run: frozen dataclasses, which `sumzero.runfile` reads from a TOML file.

Nothing here touches files or devices.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from sumzero.endpoint_settings import Endpoint as Endpoint
from sumzero.explain_settings import Explain as Explain
from sumzero.score_settings import Score as Score
from sumzero.setting import SETTINGS, Count, Positive, Share
from sumzero.train_settings import Lora as Lora
from sumzero.train_settings import Train as Train


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Scratch:
    """The model made when `model.path = "scratch"`: Qwen3 architecture, random weights.

    Its byte-level BPE tokenizer is trained on the training split.
    """

    vocab_size: Annotated[int, Field(ge=300)] = 8192
    """Tokens of the tokenizer; fewer where the text gives no more."""
    hidden_size: Count = 256
    """Width of the layers."""
    num_layers: Count = 4
    """Decoder layers."""
    num_heads: Count = 4
    """Heads of the queries; a multiple of `num_kv_heads`, and a divisor of `hidden_size`."""
    num_kv_heads: Count = 2
    """Heads of keys and values."""
    intermediate_size: Count = 768
    """Width within the MLP."""

    @model_validator(mode="after")
    def _divisible(self) -> "Scratch":
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, and num_heads must divide hidden_size"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Model:
    """The causal language model to fine-tune."""

    path: str = "scratch"
    """A local folder, a Hub name, or "scratch": a small model made from [model.scratch]."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations in training; the optimizer's copy is float32."""
    attention: Literal["auto", "flash", "varlen", "flex", "sdpa"] = "auto"
    """Attention back end; "auto" takes the best that is installed and fits; docs/kernels.md."""
    fused_layers: bool = True
    """Runs SumZero's norms, rotary embeddings, MLPs and last layer in the models it knows; off, the
    models' own."""
    scratch: Scratch = Scratch()


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Source:
    """Where records come from, what is asked of them, and the names of their columns.

    A column within a column is named with dots: `answers.text`.
    """

    path: str
    """A file or glob: .jsonl, .json, .csv, .tsv or .parquet, each also .gz or .zst; a folder of
    `Dataset.save_to_disk`; or hub:NAME, a data set of the Hub."""
    subset: str | None = None
    """The configuration of a Hub data set that has several."""
    split: str | None = None
    """The split of a data set that has several."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often an epoch sees each of its examples; 0.5 is a half, another one each epoch."""
    task: Literal["summarize", "answer", "translate"] = "summarize"
    """What is asked of a document."""
    language: str = "en"
    """Language of the instructions, and of the documents where `language_column` is not set."""
    target_language: str | None = None
    """The language to translate into."""
    instructions: str | None = None
    """A TOML file of instructions in place of SumZero's own for the task and language."""
    id: str = "id"
    """Column of the record's id; rows without one are called FILE:LINE."""
    document: str = "document"
    """Column of the text to summarize, to answer from or to translate."""
    targets: str = "target"
    """Column of the reference: a string, or a list of several references. In task "answer" an empty
    list is a question that the document does not answer."""
    instruction: str | None = None
    """Column of a row's own instruction; in task "answer", of its question."""
    language_column: str | None = None
    """Column of a row's language."""
    lead: str | None = None
    """Column of the lead baseline's text; without it, the document's first sentence."""
    metadata: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Columns of the test split that are written beside what is generated, as they are."""

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        if self.task == "answer" and self.instruction is None:
            raise ValueError('task "answer" needs the column of the question: set instruction')
        if (self.task == "translate") != bool(self.target_language):
            raise ValueError('task "translate" needs target_language, and no other task has it')
        return self


def _listed(value: Any) -> Any:
    """One source may be written as a table, several as a list of tables."""
    return [value] if isinstance(value, dict | Source) else value


Sources = Annotated[tuple[Source, ...], BeforeValidator(_listed), Field(strict=False)]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Data:
    """What is learnt from, and how it is laid out."""

    train: Sources = ()
    """One source or several, which are mixed by their weights."""
    validation: Sources = ()
    """What `train.eval_every` and `sumzero score-checkpoints` evaluate on."""
    test: Sources = ()
    """What is generated for and scored against."""
    instruction: str | None = None
    """What the user's turn asks for, after the document, in place of the instruction sets."""
    length_control: bool = False
    """Trains with instructions that say how long the target is; `generate.words` and
    `generate.sentences` then ask for a length."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What becomes of rows that repeat document, instruction and target of another one."""
    share_documents: bool = True
    """Lays a document with several targets out once, its targets as branches; the same loss and
    gradients for less work. Off: a copy for each target."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Limit in tokens of one example and of one packed bin: prompt, target and end of turn."""
    max_prompt: Annotated[int, Field(ge=16)] | None = None
    """A lower limit for the prompt alone, where documents' heads are enough."""
    truncation: Literal["head", "head_tail", "middle", "drop", "error"] = "head"
    """Which part of a document stays when an example is too long. Only documents are cut."""

    @model_validator(mode="after")
    def _limits(self) -> "Data":
        if self.max_prompt is not None and self.max_prompt > self.max_length:
            raise ValueError(f"max_prompt is above max_length = {self.max_length}")
        return self


_NOT_WITH_BEAMS = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "max_repeats": None,
    "speculative_tokens": None,
}
_WITHOUT_BEAMS = {"length_penalty": 1.0, "early_stopping": False}


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Generate:
    """How summaries are generated by vLLM. Nothing is inherited from the model's own defaults."""

    words: Count | None = None
    """Asks for at most this many words, of a model trained with `data.length_control`."""
    sentences: Count | None = None
    """Asks for this many sentences, of a model trained with `data.length_control`."""
    long: Literal["truncate", "map_reduce", "refine"] | None = None
    """What becomes of documents that do not fit into a prompt: cut by `data.truncation`, or
    summarized in parts (docs/long_documents.md). Default: a generation that has one is refused."""
    max_new_tokens: Count = 128
    """Ends a summary after as many tokens; its finish reason is "length"."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """No stop token comes before as many."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Samples from the likeliest tokens that have this share of the probability; 1 is all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Samples from the likeliest so many; 0 is all."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Lowers a token's logit by this for each time it was generated already."""
    repetition_penalty: Positive = 1.0
    """Divides positive logits by this, and multiplies negative ones, of tokens that were generated
    or stand in the prompt (arXiv 1909.05858): above 1 the document is copied less."""
    max_repeats: Annotated[int, Field(ge=2)] | None = None
    """Ends a summary whose last tokens, up to `repeat_tokens` of them, have come so many times in a
    row; its finish reason is "repetition"."""
    repeat_tokens: Count = 32
    """The longest repetition that `max_repeats` looks for."""
    speculative_tokens: Count | None = None
    """Guesses up to so many tokens ahead, as they followed the last ones earlier in prompt or
    summary (n-gram speculation): for summaries that copy."""
    prefix_caching: bool = True
    """Computes once what prompts begin with alike, as questions on one document do."""
    beams: Count = 1
    """Width of a beam search as transformers does it (docs/decoding.md); 1 is none."""
    length_penalty: float = 1.0
    """A beam's score is its log-probability by its length to this power: above 0 favours long
    summaries."""
    early_stopping: bool = False
    """Ends a beam search once as many summaries are done as there are beams, though others could
    still be better."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the engine; "auto" is that of the export."""
    max_in_flight: Count = 256
    """Requests that are in an engine at once; rows are written as they finish."""
    tensor_parallel: Count = 1
    """GPUs of one engine."""
    engines: Count | None = None
    """Engines on this machine, each a process. Default: as many as its GPUs have room for; without
    GPUs one, since several share its cores out among them."""
    gpu_memory_utilization: Share = 0.9
    """Share of a GPU's memory that vLLM takes."""
    cpu_kv_cache_gib: Positive = 1.0
    """Size of the key-value cache where there is no GPU."""
    enforce_eager: bool | None = None
    """Skips compilation and graph capture: a faster start, a slower run. Default: on CPU only."""

    @field_validator("min_new_tokens")
    @classmethod
    def _min_below_max(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("max_new_tokens", value)
        if value > most:
            raise ValueError(f"is above max_new_tokens = {most}")
        return value

    @field_validator("beams")
    @classmethod
    def _beams_alone(cls, value: int, info: ValidationInfo) -> int:
        given = {key: info.data.get(key, neutral) for key, neutral in _NOT_WITH_BEAMS.items()}
        others = [key for key, neutral in _NOT_WITH_BEAMS.items() if given[key] != neutral]
        if value > 1 and others:
            raise ValueError(
                f"beam search takes tokens by their plain probability, without {', '.join(others)}"
            )
        return value

    @field_validator("length_penalty", "early_stopping")
    @classmethod
    def _with_beams(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("beams", 2) == 1 and value != _WITHOUT_BEAMS[info.field_name or ""]:
            raise ValueError("has no effect without beams; set generate.beams, 5 for example")
        return value


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class RunConfig:
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Names the run folder; the run file's name where it is not given."""
    runs: str = "runs"
    """The folder of run folders."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of all that is drawn: paraphrases, plan, dropout, sampling, resamples."""
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    generate: Generate = Generate()
    endpoint: Endpoint = Endpoint()
    score: Score = Score()
    explain: Explain = Explain()

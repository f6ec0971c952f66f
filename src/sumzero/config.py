"""Every setting of a run: frozen dataclasses, which `sumzero.runfile` reads from a TOML file.

Nothing here touches files or devices.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

_SETTINGS = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class Scratch:
    """The model made when `model.path = "scratch"`: Qwen3 architecture, random weights.

    Its byte-level BPE tokenizer is trained on the training split.
    """

    vocab_size: Annotated[int, Field(ge=300)] = 8192
    hidden_size: Count = 256
    num_layers: Count = 4
    num_heads: Count = 4
    num_kv_heads: Count = 2
    intermediate_size: Count = 768

    @model_validator(mode="after")
    def _divisible(self) -> "Scratch":
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads, and num_heads must divide hidden_size"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
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


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
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


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class Data:
    """What is learnt from, and how it is laid out."""

    train: Sources = ()
    """One source or several, which are mixed by their weights."""
    validation: Sources = ()
    test: Sources = ()
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


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class Lora:
    """Low-rank adapters (peft) in place of full fine-tuning; the base model stays as it is."""

    rank: Count = 16
    alpha: Positive = 32.0
    """Scale of the adapters: their output counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("all-linear",)
    """Names of the modules that get an adapter; "all-linear" is every linear layer but the head."""
    rslora: bool = False
    """Scales by alpha / sqrt(rank) instead (arXiv 2312.03732)."""
    base: Literal["whole", "4bit"] = "whole"
    """"4bit" holds the base in NF4 (bitsandbytes); every rank then holds all of it."""


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class Train:
    """The optimization."""

    lora: Lora | None = None
    """Trains low-rank adapters where there is a section [train.lora]."""

    deepspeed: str = "zero3"
    """A preset of ds_configs/ by name, or the path of a DeepSpeed JSON file."""
    bins_per_step: Count = 32
    """Packed bins of one optimizer step, over all ranks: the global batch."""
    balance_width: Count | None = None
    """Bins of near-equal attention cost that a step takes together; docs/data.md has the curve.
    Default: an eighth of `bins_per_step`."""
    loss_weight: Literal["token", "target"] = "token"
    """What counts the same in the loss: every supervised token, or every target."""
    epochs: Positive = 3.0
    max_steps: Count | None = None
    """Ends the run earlier; the schedule ends with it."""
    lr: Positive = 1e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """The same in steps, in place of the share."""
    min_lr: Share = 0.1
    """Where cosine and linear end, as a share of `lr`."""
    weight_decay: NotNegative = 0.0
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.95)
    clip: Positive = 1.0
    """Limit of the gradient's norm."""
    gradient_checkpointing: bool = False
    sequence_parallel: Count = 1
    """Ranks that share a bin, each with a part of its tokens (DeepSpeed-Ulysses), for bins too long
    for one device."""
    save_every: Count | None = None
    """Steps between checkpoints; one is always saved at the end."""
    save_minutes: Positive | None = None
    """Minutes between checkpoints."""
    save_async: bool = False
    """Writes checkpoints while the next steps run."""
    keep_last: Count = 2
    """How many of the newest checkpoints are kept, besides the best."""
    keep_every: Count | None = None
    """Checkpoints at multiples of this many steps are kept for good."""
    eval_every: Count | None = None
    """Steps between evaluations of `data.validation`; one is always made at the end."""
    early_stop: Count | None = None
    """Ends the run after this many evaluations in a row that were no better than the best."""
    max_skipped: Count = 10
    """Steps in a row that may be skipped because a loss or gradient is not finite."""
    spike: Positive = 6.0
    """Standard deviations above the recent losses from which a step is logged as a spike."""
    max_minutes: Positive | None = None
    """Saves and ends in time with the exit code of a preempted run, to be started again."""
    stall_minutes: Positive = 30.0
    """Ends the run where no step was made for so long."""
    log_every: Count = 10
    wandb: str | None = None
    """A project of Weights & Biases to log to; its key is taken from the environment."""
    peak_tflops: Positive | None = None
    """Of one device in the model's dtype, for the model FLOP/s utilisation (MFU); default: what is
    published for the device."""


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class Generate:
    """How summaries are generated by vLLM. Nothing is inherited from the model's own defaults."""

    words: Count | None = None
    """Asks for at most this many words, of a model trained with `data.length_control`."""
    sentences: Count | None = None
    """Asks for this many sentences, of a model trained with `data.length_control`."""
    max_new_tokens: Count = 128
    temperature: NotNegative = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Lowers a token's logit by this for each time it was generated already."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_in_flight: Count = 256
    """Requests that are in the engine at once; rows are written as they finish."""
    tensor_parallel: Count = 1
    gpu_memory_utilization: Share = 0.9
    """Share of a GPU's memory that vLLM takes."""
    cpu_kv_cache_gib: Positive = 1.0
    """Size of the key-value cache where there is no GPU."""
    enforce_eager: bool | None = None
    """Skips compilation and graph capture: a faster start, a slower run. Default: on CPU only."""


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class Score:
    """How summaries are scored."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the 95% intervals."""


@dataclass(frozen=True, kw_only=True, config=_SETTINGS)
class RunConfig:
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Names the run folder; the run file's name where it is not given."""
    runs: str = "runs"
    """The folder of run folders."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    generate: Generate = Generate()
    score: Score = Score()

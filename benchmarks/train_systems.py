"""One system's training steps, in a process of its own: `python train_systems.py JOB`.

JOB is JSON: `system` is sumzero, trl, trainer, or weights, which only saves the random weights that
all others load. The last line of output is JSON: seconds of each timed step, loss and gradient norm
of the first step, before any update, and peak memory.

A step is forward, backward, the gradient's norm clipped at 1, and plain SGD, over all records of
the workload; the trainers take the norm whether it is clipped or not. Building the batch is
counted for none. All of it is bfloat16, without autocast.
"""

import inspect
import json
import math
import resource
import sys
import tempfile
import time
from typing import Any

from harness import PEERS
from train_shapes import Shape, Span
from train_workloads import Workload, workload

RATE = 1e-3
WARM_UP = 1


def main() -> None:
    """Runs the job."""
    sys.path.append(str(PEERS))
    import torch

    job = json.loads(sys.argv[1])
    if "threads" in job:
        torch.set_num_threads(job["threads"])
    if job["system"] == "weights":
        _save_weights(job)
        return
    records = workload(job["workload"], job["row_tokens"], job["vocab"])
    run = {"sumzero": _sumzero, "trl": _trl, "trainer": _trainer}[job["system"]]
    try:
        result = run(job, records)
    except torch.OutOfMemoryError:
        result = {"error": "out of memory"}
    else:
        result["seconds"] = result["seconds"][WARM_UP:]
        result["peak_bytes"] = _peak_bytes(job)
    print(json.dumps(result), flush=True)


def _save_weights(job: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    with torch.device(job["device"]):
        config = Qwen3Config(**Shape(**job["shape"]).config())
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(job["model"])


def _sumzero(job: dict[str, Any], records: Workload) -> dict[str, Any]:
    """Our own batch, model and loss, without DeepSpeed."""
    import torch

    from sumzero.kernels.packed_attention import choose_backends
    from sumzero.train.batches import Branch, Family, make_batch
    from sumzero.train.heap import keep_freed_memory
    from sumzero.train.model import load_model
    from sumzero.train.supervised import SupervisedLM

    lm = load_model(job["model"], torch.bfloat16).to(job["device"])
    if job["device"] == "cpu":  # as `train.assemble` does
        keep_freed_memory()
    if job["recompute"]:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    backends = choose_backends(lm.device, lm.dtype, lm.config.head_dim)
    model = SupervisedLM(lm, backends).train()
    families = [
        Family(record.document, tuple(Branch(*ids) for ids in record.targets))
        for record in records.records
    ]
    batch = make_batch(families, pad_id=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    seconds, firsts = [], []
    for _ in range(WARM_UP + job["timed"]):
        begun = _now(job)
        loss = model(batch) / len(batch.labels)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(_now(job) - begun)
        firsts.append((loss.item(), norm.item()))
    return {
        "seconds": seconds,
        "loss": firsts[0][0],
        "norm": firsts[0][1],
        "settings": f"{batch.input_ids.numel()} tokens in one row, attention {backends}",
        "spans": [vars(span) for span in _spans(batch)],
        "head_positions": len(batch.labels),
    }


def _spans(batch: Any) -> list[Span]:
    """The segments of a packed row, as they are computed."""
    from sumzero.train.supervised import last_queries

    queries, _, _ = last_queries(batch.lengths, batch.positions.numpy())
    prefixes = [batch.lengths[prefix] if prefix >= 0 else 0 for prefix in batch.prefix_of]
    return [Span(*span) for span in zip(batch.lengths, prefixes, queries, strict=True)]


def _trl(job: dict[str, Any], records: Workload) -> dict[str, Any]:
    """TRL's SFTTrainer; `limit` is the length of a pack, None trains rows one by one, unpadded."""
    import datasets
    import trl

    rows = datasets.Dataset.from_list(records.separate)
    limit, attention = job["limit"], job["attention"]
    packs = len(trl.pack_dataset(rows, limit, "bfd")) if limit else len(rows)
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.SFTConfig(
            **_arguments(job, folder, batch=1, accumulate=packs),
            max_length=limit,
            packing=limit is not None,
            packing_strategy="bfd",  # padding-free: position ids restart with each sequence
            use_liger_kernel=job["liger"],
        )
        trainer = trl.SFTTrainer(
            _peer_model(job),
            args=arguments,
            train_dataset=rows,
            processing_class=_tokenizer(),
        )
        result = _timed(job, trainer)
    packing = f"bfd packs of {limit}" if limit else "rows one by one"
    return {
        **result,
        "settings": f"{packing}, {packs} a step, attention {attention}",
        **_spans_apart(records),
    }


def _trainer(job: dict[str, Any], records: Workload) -> dict[str, Any]:
    """Transformers' Trainer: rows padded to the longest of their batch of `batch`."""
    import datasets
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = datasets.Dataset.from_list(records.separate)
    accumulate = math.ceil(len(rows) / job["batch"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            _peer_model(job),
            args=TrainingArguments(
                **_arguments(job, folder, batch=job["batch"], accumulate=accumulate)
            ),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(_tokenizer()),
        )
        result = _timed(job, trainer)
    settings = f"padded batches of {job['batch']}, {accumulate} a step, attention"
    return {**result, "settings": f"{settings} {job['attention']}", **_spans_apart(records)}


def _arguments(job: dict[str, Any], folder: str, *, batch: int, accumulate: int) -> dict[str, Any]:
    """TrainingArguments; an epoch is one step. No setting that costs time is left on."""
    on_cpu = job["device"] == "cpu"
    return {
        "output_dir": folder,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulate,
        "max_steps": WARM_UP + job["timed"],
        "optim": "sgd",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "bf16": False,  # autocast: the weights are bfloat16 already
        "gradient_checkpointing": job["recompute"],
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if job["recompute"] else None,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _timed(job: dict[str, Any], trainer: Any) -> dict[str, Any]:
    """Trains; a step lasts from the trainer's own "step begins" to its "step ends"."""
    from transformers import TrainerCallback

    begun, seconds, firsts = [], [], []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun.append(_now(job))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(_now(job) - begun[-1])

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "grad_norm" in logs:
                firsts.append((logs["loss"], logs["grad_norm"]))

    trainer.add_callback(Clock())
    trainer.train()
    return {"seconds": seconds, "loss": firsts[0][0], "norm": firsts[0][1]}


def _peer_model(job: dict[str, Any]) -> Any:
    """The same weights, with the attention that the job names."""
    import torch
    from transformers import AutoModelForCausalLM

    if job["attention"] == "torch_varlen":
        _register_varlen()
    return AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.bfloat16, attn_implementation=job["attention"]
    )


def _register_varlen() -> None:
    """torch's own varlen attention for peers: TRL's collator hands the offsets to every layer."""
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface

    # Until torch 2.12 fewer key heads are taken unasked.
    known = inspect.signature(varlen_attn).parameters
    grouped: Any = {"enable_gqa": True} if "enable_gqa" in known else {}

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **given: Any
    ) -> tuple[Any, None]:
        q_THD, k_TKD, v_TKD = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        offsets, longest = given["cu_seq_lens_q"], given["max_length_q"]
        out_THD = varlen_attn(
            *(q_THD, k_TKD, v_TKD, offsets, offsets, longest, longest),
            scale=scaling,
            window_size=(-1, 0),  # causal
            **grouped,
        )
        return out_THD.unsqueeze(0), None

    AttentionInterface.register("torch_varlen", attend)


def _tokenizer() -> Any:
    """TRL asks for one; rows are token ids already, so only its padding is used."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<pad>")


def _spans_apart(records: Workload) -> dict[str, Any]:
    lengths = [len(row["input_ids"]) for row in records.separate]
    spans = [vars(Span(length, 0, length)) for length in lengths]
    return {"spans": spans, "head_positions": records.supervised}


def _now(job: dict[str, Any]) -> float:
    if job["device"] != "cpu":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes(job: dict[str, Any]) -> int:
    """On CUDA of what torch allocated; on the CPU of the process, loading included."""
    if job["device"] != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

"""Checkpoints: how long training stands still for one, in seconds and in steps, and what it costs.

One rank under ZeRO-3 trains a Qwen3 shape on random tokens and saves through the real Saver: at
once, and in the background. A step's time depends on its tokens: both are given.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from harness import Results, cpu_dtype, main, median_seconds

# Layers, hidden, intermediate, vocabulary, tokens of a step, saves.
FULL = (12, 768, 2304, 32768, 256, 5)
QUICK = (4, 256, 768, 8192, 512, 3)


def measure(options: argparse.Namespace, results: Results) -> None:
    """Sync and async saves of one model."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        _measure(QUICK if options.quick else FULL, Path(name), results)


def _measure(size: tuple[int, ...], folder: Path, results: Results) -> None:
    import torch
    import xxhash

    from sumzero.config import Model, Train
    from sumzero.kernels.packed_attention import choose_backends
    from sumzero.ranks import Ranks
    from sumzero.train import checkpoint
    from sumzero.train.batches import Branch, Family, make_batch
    from sumzero.train.engine import Engine, deepspeed_settings, start, zero3_loading
    from sumzero.train.model import load_model
    from sumzero.train.saver import Saver
    from sumzero.train.shards import checksum
    from sumzero.train.supervised import SupervisedLM

    *_, vocab, num_tokens, saves = size
    path = _weights(size, folder)
    device = start(Ranks())
    train = Train(deepspeed="zero3", keep_last=1)
    name = "bfloat16" if device.type == "cuda" else cpu_dtype()
    dtype = getattr(torch, name)
    settings = deepspeed_settings(Model(dtype=name), train, 1)
    with zero3_loading(settings):
        lm = load_model(path, dtype)
    backends = choose_backends(device, dtype, 64, "auto")
    engine = Engine(SupervisedLM(lm, backends).train(), settings, train)
    tokens = torch.randint(8, vocab, (num_tokens,)).tolist()
    cut = num_tokens * 9 // 10
    batch = make_batch([Family(tokens[:cut], (Branch([], tokens[cut:]),))], 0)

    def step() -> None:
        engine.backward(engine.model(batch), 1)
        engine.step(1e-5)

    step()
    seconds = median_seconds(step, saves)
    results.add(f"step of {num_tokens} tokens, {name}", seconds, "s")
    stalls: dict[bool, list[float]] = {}
    for later in (False, True):
        out = folder / f"checkpoints-{later}"
        saver = Saver(engine, out, Ranks(), Train(deepspeed="zero3", keep_last=1, save_async=later))
        stalls[later], meanwhile, until = [], [], []
        for number in range(saves):
            begun = time.perf_counter()
            stalls[later].append(saver.save(number, {}))
            if later:
                meanwhile.append(median_seconds(step, 1))
                saver.finish()
                until.append(time.perf_counter() - begun)
        stall = statistics.median(stalls[later])
        how = "asynchronous" if later else "synchronous"
        results.add(f"{how} save: stall", stall, "s")
        results.add(f"{how} save: stall", stall / seconds, "steps")
        if later:
            whole = "asynchronous save: until it is whole, one step in between"
            results.add(whole, statistics.median(until), "s")
            results.add("step while a checkpoint is written", statistics.median(meanwhile), "s")
    ratio = statistics.median(stalls[False]) / statistics.median(stalls[True])
    results.add("synchronous to asynchronous stall", ratio, "times")
    newest = out / str(checkpoint.newest(out))
    files = [file for file in newest.iterdir() if file.is_file()]
    num_bytes = sum(file.stat().st_size for file in files)
    results.add("size", num_bytes / 1e9, "GB")
    parameters = sum(getattr(x, "ds_numel", x.numel()) for x in engine.module.parameters())
    results.add("size", num_bytes / parameters, "bytes a parameter")
    results.add("verifying on resume", median_seconds(lambda: [checksum(x) for x in files], 3), "s")
    shard = max(files, key=lambda file: file.stat().st_size).read_bytes()
    hashing = median_seconds(lambda: xxhash.xxh3_128(shard).digest(), 3)
    share = 100 * hashing * num_bytes / len(shard) / statistics.median(stalls[False])
    results.add("checksum", len(shard) / hashing / 1e9, "GB/s")
    results.add("checksum", share, "% of a synchronous save")
    engine.close()


def _weights(size: tuple[int, ...], folder: Path) -> str:
    """A folder with random weights of a Qwen3 shape."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    layers, hidden, intermediate, vocab, num_tokens, _ = size
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        max_position_embeddings=num_tokens,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    path = folder / "model"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(path)
    return str(path)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What this benchmark alone takes."""
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: /tmp)")


if __name__ == "__main__":
    main("bench_checkpoint", measure, arguments)

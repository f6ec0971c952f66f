"""One optimizer step by real DeepSpeed ZeRO-3 against plain torch on separate sequences."""

import json

import pytest
import torch
import torch.nn.functional as F

from sumzero.config import Train
from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.train.batches import family
from sumzero.train.epoch import Epochs, lay_out
from sumzero.train.examples import store_file
from sumzero.train.model import load_model
from sumzero.train.packing import EMPTY
from sumzero.train.store import TokenStore

from .consolidated import consolidated_weights

# Long and short documents and targets, so that ranks and bins get unequal supervised counts.
# One has several references, and one document occurs in two rows: both are laid out once.
ROWS = [
    ("A cat sat on the mat. " * 3, ["A cat sat.", "It sat on the mat, the cat.", "Mats."]),
    ("The dog ran home. " * 12, "A dog ran home at night, and then it slept until noon."),
    ("Rain fell.", "Rain."),
    ("A cat sat on the mat. " * 3, "A warm mat."),
    ("Stocks rose while bonds fell in early trade. " * 5, "Stocks up, bonds down."),
    ("One. Two. Three.", "It counts to three: one, then two, then three, and then no more."),
]
LR, WEIGHT_DECAY, CLIP = 1e-3, 0.01, 0.5


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("exactness")
    data = folder / "train.jsonl"
    data.write_text(
        "".join(
            json.dumps({"id": index, "document": document, "target": target}) + "\n"
            for index, (document, target) in enumerate(ROWS)
        )
    )
    file = folder / "run.toml"
    file.write_text(f"""
        runs = "{folder}/runs"
        [model]
        path = "{model_folder}"
        dtype = "float32"
        [data]
        train.path = "{data}"
        max_length = 320
        [train]
        lr = {LR}
        weight_decay = {WEIGHT_DECAY}
        clip = {CLIP}
        warmup = 0.0
        max_steps = 1
        log_every = 1
    """)
    return file


@pytest.fixture(scope="module")
def split_all(tmp_path_factory):
    """A ZeRO-3 file that splits every parameter; presets leave those of a tiny model whole."""
    file = tmp_path_factory.mktemp("deepspeed") / "split_all.json"
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    file.write_text(json.dumps({"zero_optimization": zero}))
    return file


def _config(run_file, *overrides):
    return load(run_file, overrides)


@pytest.fixture(scope="module")
def plain(run_file, model_folder):
    """By loss weight: (weights after the step, loss, gradient norm); each sequence alone."""
    prepare(_config(run_file, "name=plain"))
    return {weight: _plain_step(run_file, model_folder, weight) for weight in ("token", "target")}


def _plain_step(run_file, model_folder, loss_weight):
    config = _config(run_file, "name=plain")
    store = TokenStore(store_file(RunFolder.of(config), "train"))
    model = load_model(str(model_folder), torch.float32, attention="eager")
    settings = Train(lr=LR)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=settings.betas)
    total = 0.0
    layout = lay_out(store, weights=[1.0], limit=320, share=False, by_target=False, seed=0, epoch=0)
    by_target = loss_weight == "target"
    total_weight = store.num_branches if by_target else int(store.target_tokens.sum())
    for piece in range(store.num_branches):
        alone = family(store, layout, piece)
        prompt = [*alone.prefix.tolist(), *alone.branches[0].prompt.tolist()]
        target = alone.branches[0].target.tolist()
        logits_TV = model(input_ids=torch.tensor([prompt + target])).logits[0]
        loss = F.cross_entropy(
            logits_TV[len(prompt) - 1 : -1], torch.tensor(target), reduction="sum"
        )
        loss = loss / (len(target) if by_target else 1)
        (loss / total_weight).backward()
        total += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return model.state_dict(), total / total_weight, float(norm)


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        pytest.param(1, ["train.bins_per_step=2"], id="packed, 1 rank, 2 micro-steps"),
        pytest.param(2, ["train.bins_per_step=2"], id="packed, 2 ranks"),
        pytest.param(
            2,
            ["train.bins_per_step=7", "data.max_length=230", "train.deepspeed=SPLIT_ALL"],
            id="nearly unpacked, 2 ranks, 4 micro-steps, empty bins",
        ),
        pytest.param(
            2, ["train.bins_per_step=2", "train.loss_weight=target"], id="by target, 2 ranks"
        ),
    ],
)
def test_a_step_equals_plain_torch_on_separate_sequences(
    run_file, plain, forks, split_all, ranks, overrides, request
):
    overrides = [text.replace("SPLIT_ALL", str(split_all)) for text in overrides]
    name = request.node.callspec.id.replace(" ", "-").replace(",", "")
    config = _config(run_file, f"name={name}", *overrides)
    prepare(config)
    forks.train(run_file, f"name={name}", *overrides, ranks=ranks)

    weights, loss, norm = plain[config.train.loss_weight]
    folder = RunFolder.of(config)
    events = read_jsonl(folder.root / "events.jsonl")
    (step,) = [event for event in events if event["event"] == "step"]
    assert step["loss"] == pytest.approx(loss, rel=1e-6)
    assert step["gradient_norm"] == pytest.approx(norm, rel=2e-6)

    found = consolidated_weights(folder.checkpoints, "step-000001")
    before = load_model(str(config.model.path), torch.float32, attention="eager").state_dict()
    moved = error = 0.0
    for key, value in found.items():
        moved += float((weights[key] - before[key]).square().sum())
        error += float((value.detach() - weights[key]).square().sum())
    # Adam's first step divides each gradient by its own size, so rounding shows where that is 0.
    assert (error / moved) ** 0.5 < 1e-4


def test_the_plan_has_what_the_cases_claim(run_file, plain):
    store = TokenStore(store_file(RunFolder.of(_config(run_file, "name=plain")), "train"))
    assert (len(store), store.num_branches) == (5, 8)
    assert store.alike.tolist().count(False) == 1  # the joined rows draw their paraphrases apart
    packed = _plan(store, run_file, "train.bins_per_step=2")
    assert packed.num_bins == 2
    apart = _plan(store, run_file, "train.bins_per_step=7", "data.max_length=230")
    assert 3 <= apart.num_bins <= 6
    table = apart.assignment(0, 2)
    counts = [sum(apart.supervised[b] for b in table[:, rank] if b != EMPTY) for rank in (0, 1)]
    assert counts[0] != counts[1]
    assert (table == EMPTY).any()


def _plan(store, run_file, *overrides):
    return Epochs(store, _config(run_file, *overrides), 32).epoch(0).plan

"""The loss on held-out records: packed as in training, an exact mean over tokens, for each task.

Bins hold one task each, so a bin's summed loss belongs to it. They are dealt to ranks in turn; all
ranks make the same number of forward passes, the last of them on empty bins where there are too
few. Paraphrases are those of epoch 0, and the mean does not depend on the number of ranks.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from sumzero.config import RunConfig
from sumzero.ranks import Ranks
from sumzero.train.batches import Batch, family, make_batch
from sumzero.train.engine import Engine
from sumzero.train.epoch import lay_out
from sumzero.train.packing import pack
from sumzero.train.store import TokenStore


class Evaluation:
    """The held-out records of a run, laid out in bins."""

    def __init__(self, store: TokenStore, config: RunConfig) -> None:
        self._store = store
        sources = config.data.validation
        self._layout = lay_out(
            store,
            weights=[1.0] * len(sources),
            limit=config.data.max_length,
            share=config.data.share_documents,
            by_target=False,
            seed=config.seed,
            epoch=0,
        )
        task_of_source = np.array([source.task for source in sources])
        task = task_of_source[store.source[self._layout.example]]
        pieces = self._layout.pieces
        self._bins: list[tuple[str, list[int]]] = []
        self.tokens: dict[str, int] = {}  # that are supervised
        random = np.random.default_rng(config.seed)
        for name in sorted(set(task.tolist())):
            of_task = np.flatnonzero(task == name)
            order, starts = pack(pieces.tokens[of_task], config.data.max_length, random)
            bins = np.split(of_task[order], starts[1:-1])
            self._bins += [(name, members.tolist()) for members in bins]
            self.tokens[name] = int(pieces.supervised[of_task].sum())

    def __len__(self) -> int:
        """Number of bins."""
        return len(self._bins)

    def losses(
        self,
        trainer: Engine,
        who: Ranks,
        pad_id: int,
        is_asked_to_end: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """The mean loss by task and, as "loss", of all tokens; all ranks call it together.

        None where `is_asked_to_end`, which is asked before every bin, says so to all ranks.
        """
        model = trainer.model
        was_training = model.training
        model.eval()
        sums = [torch.zeros((), dtype=torch.float64) for _ in self.tokens]
        place = {name: index for index, name in enumerate(self.tokens)}
        with torch.no_grad():
            for first in range(0, len(self._bins), who.world):
                if is_asked_to_end():
                    model.train(was_training)
                    return None
                at = first + who.rank
                name, members = self._bins[at] if at < len(self._bins) else (self._bins[0][0], [])
                loss = model(self._batch(members, pad_id))
                sums[place[name]] = sums[place[name]].to(loss.device) + loss.double()
        model.train(was_training)
        by_rank = trainer.gather(torch.stack([x.to(trainer.device) for x in sums])).tolist()
        total = dict(zip(self.tokens, map(math.fsum, zip(*by_rank, strict=True)), strict=True))
        means = {name: total[name] / count for name, count in self.tokens.items()}
        return {"loss": math.fsum(total.values()) / sum(self.tokens.values()), **means}

    def _batch(self, members: list[int], pad_id: int) -> Batch:
        return make_batch([family(self._store, self._layout, piece) for piece in members], pad_id)

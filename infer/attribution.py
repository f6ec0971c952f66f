"""Which parts of a document a fixed text depends on: random ablations and a sparse linear fit.

ContextCite (Cohen-Wang et al. 2024, arXiv 2409.00729): the parts ("sources") are left out at
random, each with probability 1/2; the text is scored under what is left; a linear model of which
sources were there, fitted to the scores by Lasso, has a weight for each. Beside it, what tells
whether such weights are true: the linear datamodelling score (LDS) and the sources to leave out for
the top-k drop, both as in that paper.

Shapes: M ablations, N sources, S scored sentences. Only NumPy, nothing of models.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kept = NDArray[np.bool_]
"""Which sources are there (..., N)."""

SURE = -1e-6
"""The highest log-probability that log-odds are taken of. A float32 logit near 20 is exact to 1e-6,
and so is a log-probability made of it: what is nearer to 0, or 0, says no more than "sure"."""
_ALL_DRAWN = 12  # sources up to which ablations are drawn from the list of all
_CLOSE = 1e-9  # how far from optimal a fit may be, as a part of its largest covariance
_MOST_ROUNDS = 1000
_INNER_SWEEPS = 4


def ablations(sources: int, count: int, draws: np.random.Generator) -> Kept:
    """At most `count` random choices of what stays (M, N), each source with probability 1/2.

    Of few sources no choice is there twice, and where there are no more than `count`, all are.
    """
    if sources <= _ALL_DRAWN:
        numbers = draws.permutation(2**sources)[:count]
        return np.asarray((numbers[:, None] >> np.arange(sources)) & 1 == 1)
    return draws.random((count, sources)) < 0.5


def apart(kept: Kept, held_out: int) -> tuple[Kept, Kept]:
    """Ablations in two, those to fit with and those to test the fit with: at most a third."""
    cut = len(kept) - min(held_out, len(kept) // 3)
    return kept[:cut], kept[cut:]


def log_odds(logprobs: Floats) -> Floats:
    """log p - log(1 - p) of log-probabilities, of all shapes; above SURE they count as SURE."""
    sure = np.minimum(logprobs, SURE)
    return np.asarray(sure - np.log(-np.expm1(sure)))


def fit(kept_MN: Kept, scores_MS: Floats, penalty_S: Floats) -> tuple[Floats, Floats]:
    """Weights (S, N) and intercepts (S) of a linear model of the scores, by Lasso.

    Of sentence s it minimises |scores - intercept - kept_z weights_z|^2 / 2M + penalty_S[s]
    |weights_z|_1, where kept_z are the columns of `kept_MN` with mean 0 and variance 1, and then
    has the weights in terms of `kept_MN` itself. A source that is always there, or never, has 0.
    """
    kept = kept_MN.astype(np.float64)
    means, spread = kept.mean(axis=0), kept.std(axis=0)
    varies = spread > 0
    scaled = (kept[:, varies] - means[varies]) / spread[varies]
    centre = scores_MS.mean(axis=0)
    num = max(1, len(kept))
    found = lasso(scaled.T @ scaled / num, scaled.T @ (scores_MS - centre) / num, penalty_S)
    weights = np.zeros((scores_MS.shape[1], kept.shape[1]))
    weights[:, varies] = (found / spread[varies, None]).T
    return weights, centre - weights @ means


def lasso(gram_NN: Floats, covariance_NS: Floats, penalty_S: Floats) -> Floats:
    """The weights (N, S) that minimise w'Gw / 2 - c'w + penalty |w|_1, by coordinate descent.

    `gram_NN` has ones on its diagonal. The optimum is told by the gradient r = c - Gw: r = penalty
    sign(w) where w is not 0, and |r| <= penalty elsewhere. The penalty is halved from where all
    weights are 0 down to what is wanted, so that few signs change at a time (Friedman et al. 2010,
    2.5); rounds of sweeps then soon have the signs, and with those right the weights are the
    solution of a linear system. Without a penalty it is the least-squares solution of least norm.
    """
    if not penalty_S.any():
        return np.asarray(np.linalg.lstsq(gram_NN, covariance_NS)[0])
    weights = np.zeros_like(covariance_NS)
    largest = np.abs(covariance_NS).max(axis=0, initial=0.0)
    above = largest / np.where(penalty_S > 0, penalty_S, np.inf)
    steps = int(np.ceil(np.log2(max(2.0, above.max(initial=0.0)))))
    for step in range(1, steps + 1):
        penalties = np.maximum(penalty_S, largest * 0.5**step)
        last = step == steps
        _descend(gram_NN, covariance_NS, penalties, weights, _MOST_ROUNDS if last else 1)
    return weights


def _descend(
    gram_NN: Floats, covariance_NS: Floats, penalty_S: Floats, weights_NS: Floats, rounds: int
) -> None:
    """Rounds of coordinate descent, in place, until the weights are optimal."""
    close = _CLOSE * float(np.abs(covariance_NS).max(initial=0.0))

    def sweep(over: NDArray[np.int64]) -> None:
        for index in over:
            rest = covariance_NS[index] - gram_NN[index] @ weights_NS + weights_NS[index]
            weights_NS[index] = np.sign(rest) * np.maximum(np.abs(rest) - penalty_S, 0)

    for _ in range(rounds):
        rest = covariance_NS - gram_NN @ weights_NS
        pulled = np.abs(rest - np.sign(weights_NS) * penalty_S)
        off = np.where(weights_NS == 0, np.abs(rest) - penalty_S, pulled)
        if off.max(initial=0.0) <= close:
            return
        sweep(np.arange(len(weights_NS)))
        for _ in range(_INNER_SWEEPS):
            sweep(np.flatnonzero(weights_NS.any(axis=1)))
        for number, penalty in enumerate(penalty_S):
            _solve_signed(gram_NN, covariance_NS[:, number], penalty, weights_NS[:, number])


def _solve_signed(gram_NN: Floats, covariance_N: Floats, penalty: float, weights_N: Floats) -> None:
    """Puts in the weights that are best with these signs, where they have them, and are better."""
    chosen = np.flatnonzero(weights_N)
    before = weights_N[chosen]
    signs, gram = np.sign(before), gram_NN[np.ix_(chosen, chosen)]
    pull = covariance_N[chosen] - penalty * signs
    try:
        best = np.linalg.solve(gram, pull)
    except np.linalg.LinAlgError:  # sources that were always there together
        return
    # Where they nearly were, what is found may be far from a solution.
    costs = [w @ gram @ w / 2 - pull @ w for w in (best, before)]
    if (np.sign(best) == signs).all() and costs[0] < costs[1]:
        weights_N[chosen] = best


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's, of values of which several may be equal; None where all of one are."""
    ranks = [_ranks(values) - (len(values) + 1) / 2 for values in (a, b)]
    sizes = [float(np.sqrt((rank**2).sum())) for rank in ranks]
    if not all(sizes):
        return None
    return float(ranks[0] @ ranks[1] / (sizes[0] * sizes[1]))


def datamodelling_score(weights: Floats, kept_MN: Kept, scores: Floats) -> float | None:
    """LDS: how well weights (N) rank the scores (M) of ablations that they were not fitted to.

    It is the rank correlation of the scores with the sums of the weights of what is there
    (Park et al. 2023, arXiv 2303.14186). Weights that tell no two ablations apart have 0; None is
    where the scores are all equal.
    """
    if len(scores) < 2 or np.ptp(scores) == 0:
        return None
    # Rounded, since sums of equal weights differ in their last digits.
    predicted = np.round(kept_MN.astype(np.float64) @ weights, 9)
    return rank_correlation(predicted, scores) or 0.0


def without_top(weights: Floats, most: int) -> Kept:
    """The ablation (N) that leaves out the `most` sources with the highest weights.

    Of equal ones the first are left out.
    """
    kept = np.ones(len(weights), bool)
    kept[np.argsort(-weights, kind="stable")[:most]] = False
    return kept


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which])

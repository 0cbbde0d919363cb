"""How noisy the sampled token's gradient is beside the whole distribution's, against batch and vocabulary.

Nothing is trained: at a student's start, every rollout has a gradient g of its own. With the covariance of g over
rollouts and the mean G, the noise scale tr Cov(g) / |G|² is the batch at which noise equals signal
(McCandlish et al. 2018, arXiv 1812.06162, eq. 2.9); at a batch of B, noise over signal is the noise scale over B.

The toy world has one vocabulary. A smaller one is made by merging ids: student and teacher are looked at through the
probabilities of classes, and a class has the ids that are equal modulo the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CLASSES: Final = (2, 8, 32, 128, 0)  # 0: the whole vocabulary
METHODS: Final = ("opd", "full-rkl")
BLOCKS: Final = 16  # of rollouts, for the jackknife


def noise_scale(gram: NDArray[Any]) -> tuple[float, float, float]:
    """tr Cov(g) / |G|² in rollouts with a 95 % interval, from inner products of the gradients of n rollouts.

    |G|² is the mean inner product of different rollouts, which is unbiased. The interval is a jackknife's over `BLOCKS`
    blocks of rollouts, on the logarithm; NaN where the signal is not above zero.

    Args:
        gram: [n,n] inner products.
    """

    def scale(keep: NDArray[Any]) -> float:
        part = gram[np.ix_(keep, keep)]
        n = len(part)
        signal = (part.sum() - np.trace(part)) / (n * (n - 1))
        return float((np.trace(part) / n - signal) / signal) if signal > 0 else math.nan

    every = np.arange(len(gram))
    whole = scale(every)
    left_out = np.log([scale(np.setdiff1d(every, block)) for block in np.array_split(every, BLOCKS)])
    error = math.sqrt((BLOCKS - 1) / BLOCKS * float(((left_out - left_out.mean()) ** 2).sum()))
    half = 2.1314 * error  # t of 15 degrees of freedom
    return whole, whole * math.exp(-half), whole * math.exp(half)


def measure(
    students: tuple[str, ...], rollouts: int = 256, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """The noise scale of either method in every vocabulary, at the start of every student, on the main table's prompts.

    Columns: `student`, `method`, `classes` (the whole vocabulary's size for 0), `rollouts`, `noise`, `low`, `high`
    (rollouts).
    """
    from harness.grid import load_grid

    grid = load_grid(Path("main_table"))
    rows = []
    for student in students:
        for method, classes, vocab, gram in _grams(grid, student, rollouts):
            noise, low, high = noise_scale(gram)
            size = classes or vocab
            rows.append(
                {"student": student, "method": method, "classes": size, "rollouts": rollouts, "noise": noise}
                | {"low": low, "high": high}
            )
            if progress:
                progress(len(rows), len(students) * len(CLASSES) * len(METHODS))
    return pd.DataFrame(rows)


def _grams(grid: Any, student: str, count: int) -> Any:
    """(method, classes, vocabulary, [n,n] inner products) of the gradients of `count` rollouts."""
    import torch

    from harness.runs import assets
    from harness.runs.models import load_student, load_teacher, rollout_engine
    from trainer.data import derive_seed
    from trainer.rollout import pack

    spec = grid.spec(dict(grid.arms)["opd"], 0, student)
    policy = load_student(spec)
    teacher = load_teacher(spec, policy)
    engine = rollout_engine(spec, policy, teacher)
    prompts = assets.open_source(spec.data, spec.seed).batch(0, count)
    ids = [policy.render(prompt.text) for prompt in prompts]
    seeds = [derive_seed(spec.seed, "noise", index) for index in range(count)]
    batch = pack(prompts, ids, engine.generate(ids, seeds, spec.rollout), seeds, policy.pad_id, 0, policy.device)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    for method in METHODS:
        for classes in CLASSES:
            found = []
            for row in range(count):
                one = batch.rows(torch.tensor([row]))
                loss = _loss(method, one, policy, teacher, classes)
                parts = torch.autograd.grad(loss, trained)
                found.append(torch.cat([part.flatten() for part in parts]))
            matrix = torch.stack(found).double()
            yield method, classes, policy.vocab, (matrix @ matrix.T).numpy()


def _loss(method: str, rollout: Any, policy: Any, teacher: Any, classes: int) -> Tensor:
    """The method's loss on one rollout, the sum over its tokens, with the vocabulary merged into `classes`."""
    import torch

    from trainer.methods import METHODS as TABLE
    from trainer.objective import Plan, TermPlan, Tokens

    hidden = policy.hidden(rollout)
    student = (hidden @ policy.head.T).float().log_softmax(-1)
    with torch.no_grad():
        positions = torch.arange(len(hidden))
        theirs = teacher.score(rollout).logits(positions).log_softmax(-1)
    targets = rollout.targets
    if classes:
        student, theirs = merged(student, classes), merged(theirs, classes)
        targets = targets % classes
    sampled = student.gather(1, targets[:, None])[:, 0]
    objective = TABLE[method]
    reward = theirs.gather(1, targets[:, None])[:, 0] - sampled.detach() if method == "opd" else None
    ones = torch.ones(len(targets), dtype=torch.bool)
    plan = Plan(ones, sampled.detach(), ones[:1], (TermPlan(torch.ones(len(targets)), reward),))
    return objective.loss(plan, Tokens(sampled, student, theirs))


def merged(logprobs: Tensor, classes: int) -> Tensor:
    """[n,C] log-probs of the classes of ids, from [n,V] of the ids: id i is in class i modulo C."""
    import torch

    padding = -logprobs.shape[1] % classes
    padded = torch.nn.functional.pad(logprobs, (0, padding), value=-torch.inf)
    return padded.view(len(logprobs), -1, classes).logsumexp(1)

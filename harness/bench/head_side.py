"""One side of the head measurement, in a process of its own: ``python -m harness.bench.head_side SPEC FOUND`` (JSON).

Prints nothing; FOUND holds seconds, peak memory, loss, and a digest of both gradients. The kernel's high-water mark of
this process is reset once the inputs are there, so nothing earlier counts, nor what the parent process holds. What the
process held before the inputs (interpreter, libraries) is subtracted from it; on a GPU it is the allocator's own mark.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harness.bench import memory

PROBES = 8  # sums over the rows of either gradient that are compared


@dataclass(frozen=True, eq=False)
class Work:
    """Seeded inputs: N = rollouts × length tokens, teacher with hidden states and a head of its own."""

    name: str  # a line of the method table
    rollouts: int
    length: int
    chunk: int  # tokens per chunk for the sides that are told
    hidden: Tensor  # [N,h] with gradient
    weight: Tensor  # [V,h] with gradient
    teacher_hidden: Tensor  # [N,h]
    teacher_weight: Tensor  # [V,h]
    targets: Tensor  # [N]

    @classmethod
    def make(cls, spec: dict[str, Any], rollouts: int, length: int) -> Work:
        g = torch.Generator().manual_seed(0)
        tokens, vocab, width = rollouts * length, spec["vocab"], spec["width"]
        # Logits of standard deviation 2; the teacher's are the student's and as much noise again.
        weight = torch.randn(vocab, width, generator=g).mul_(2 / width**0.5)
        teacher_weight = torch.randn(vocab, width, generator=g).mul_(2 / width**0.5).add_(weight).mul_(0.5**0.5)
        hidden = torch.randn(tokens, width, generator=g)
        targets = torch.randint(0, vocab, (tokens,), generator=g)
        device, dtype = torch.device(spec["device"]), getattr(torch, spec["dtype"])
        return cls(
            spec["work"],
            rollouts,
            length,
            spec["chunk"],
            hidden.to(device, dtype).requires_grad_(),
            weight.to(device, dtype).requires_grad_(),
            hidden.to(device, dtype),
            teacher_weight.to(device, dtype),
            targets.to(device),
        )

    @property
    def tokens(self) -> int:
        return len(self.targets)

    @property
    def planned(self) -> bool:
        """Whether coefficients depend on what the models say of the whole batch."""
        return self.name not in DIVERGENCES


# --- this project ---------------------------------------------------------------------------------------------------


def ours(work: Work) -> Tensor:
    from trainer.head import HeadLogits, head_loss, score_head
    from trainer.methods import METHODS
    from trainer.objective import Plan, Scores, TermPlan

    objective = METHODS[work.name]
    n, device = work.tokens, work.targets.device
    mask = torch.ones(work.rollouts, work.length, dtype=torch.bool, device=device)
    teacher = HeadLogits(work.teacher_hidden, work.teacher_weight)
    if work.planned:
        names = ["logprobs", "student_entropy", "teacher_logprobs", "teacher_entropy"]
        flat = score_head(work.hidden.detach(), work.weight.detach(), work.targets, teacher, names)
        scores: dict[str, Any] = {name: values.view_as(mask) for name, values in flat.items()}
        plan = objective.plan(Scores(mask, **scores)).map(torch.flatten)
    else:
        even = torch.full((n,), 1 / n, device=device)
        plan = Plan(mask.flatten(), torch.zeros(n, device=device), mask.any(1), (TermPlan(even, None),))
    positions = torch.arange(n, device=device)
    return head_loss(work.hidden, work.weight, work.targets, positions, objective, plan, teacher)


def products(work: Work) -> Tensor:
    """The matrix products alone that the loss cannot do without, in this project's chunks: the machine's limit."""
    from trainer.head import chunk_size

    weight, teacher_weight = work.weight.detach(), work.teacher_weight
    with torch.no_grad():
        grad_hidden, grad_weight = torch.empty_like(work.hidden), torch.zeros_like(work.weight)
        step = work.chunk or chunk_size(len(weight))
        logits = work.hidden.new_empty(step, len(weight))
        other = torch.empty_like(logits)
        for start in range(0, work.tokens, step):
            part = slice(start, min(start + step, work.tokens))
            here = logits[: part.stop - start]
            torch.mm(work.hidden[part], weight.T, out=here)
            torch.mm(work.teacher_hidden[part], teacher_weight.T, out=other[: part.stop - start])
            if work.planned:
                torch.mm(work.hidden[part], weight.T, out=here)
            torch.mm(here, weight, out=grad_hidden[part])
            grad_weight.addmm_(here.T, work.hidden[part])
    work.hidden.grad, work.weight.grad = grad_hidden, grad_weight
    return torch.zeros((), requires_grad=True)


# --- plain torch ----------------------------------------------------------------------------------------------------


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.exp() * (student - teacher)).sum(-1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1)


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    middle = ((student.exp() + teacher.exp()) / 2).log()
    return (reverse_kl(student, middle) + reverse_kl(teacher, middle)) / 2


def skewed(student: Tensor, teacher: Tensor) -> Tensor:
    return reverse_kl(student, (0.1 * student.exp() + 0.9 * teacher.exp()).log())


def top_student(student: Tensor, teacher: Tensor) -> Tensor:
    best = student.detach().topk(16, -1).indices
    return reverse_kl(student.gather(-1, best).log_softmax(-1), teacher.gather(-1, best).log_softmax(-1))


def top_teacher_and_rest(student: Tensor, teacher: Tensor) -> Tensor:
    best = teacher.topk(16, -1).indices

    def lumped(logp: Tensor) -> Tensor:
        rest = logp.scatter(-1, best, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logp.gather(-1, best), rest], -1)

    return forward_kl(lumped(student), lumped(teacher))


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "full-rkl": reverse_kl,
    "full-fkl": forward_kl,
    "full-jsd": jensen_shannon,
    "skew-kl": skewed,
    "topk-rkl": top_student,
    "topk-fkl-tail": top_teacher_and_rest,
}
BETAS = {"full-rkl": 1.0, "full-fkl": 0.0, "full-jsd": 0.5}  # those that the libraries know


def checkpointed(work: Work) -> Tensor:
    """Chunks whose logits are computed again for the backward pass."""
    return _plain(work, work.chunk or 256, again=True)


def naive(work: Work) -> Tensor:
    """All logits of both models at once."""
    return _plain(work, work.tokens, again=False)


def _plain(work: Work, chunk: int, again: bool) -> Tensor:
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, work.tokens, chunk):
        part = slice(start, start + chunk)
        arguments = (work.hidden[part], work.weight, work.teacher_hidden[part], work.targets[part])

        def values(hidden: Tensor, weight: Tensor, other: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            student = (hidden @ weight.T).float().log_softmax(-1)
            with torch.no_grad():
                teacher = (other @ work.teacher_weight.T).float().log_softmax(-1)
            if not work.planned:
                return (DIVERGENCES[work.name](student, teacher).sum(),)
            sampled = student.gather(-1, targets[:, None])[:, 0]
            with torch.no_grad():
                entropies = [-(logp.exp() * logp).sum(-1) for logp in (student, teacher)]
                return sampled, teacher.gather(-1, targets[:, None])[:, 0], *entropies

        found.append(checkpoint(values, *arguments, use_reentrant=False) if again else values(*arguments))
    columns = [torch.stack(column) if not work.planned else torch.cat(column) for column in zip(*found, strict=True)]
    if not work.planned:
        return columns[0].sum() / work.tokens
    from trainer.methods import METHODS
    from trainer.objective import Scores

    objective = METHODS[work.name]
    logprobs, teacher_logprobs, entropy, teacher_entropy = (one.view(work.rollouts, work.length) for one in columns)
    mask = torch.ones_like(logprobs, dtype=torch.bool)
    scores = Scores(mask, logprobs, teacher_logprobs, student_entropy=entropy, teacher_entropy=teacher_entropy)
    return objective.loss(objective.plan(scores), logprobs)


# --- libraries ------------------------------------------------------------------------------------------------------


def trl(work: Work) -> Tensor:
    """The chunked divergence of TRL's DistillationTrainer, as its training step calls it."""
    module = importlib.import_module("trl.trainer.distillation_trainer")
    shape = (work.rollouts, work.length, -1)
    loss, _, _ = module._chunked_divergence_loss(
        work.hidden.view(shape),
        work.teacher_hidden.view(shape),
        work.weight,
        work.teacher_weight,
        torch.ones(shape[:2], dtype=torch.int64, device=work.targets.device),
        beta=BETAS[work.name],
    )
    return cast(Tensor, loss)


def liger(work: Work) -> Tensor:
    """Liger's fused linear Jensen–Shannon loss, the version in plain torch; compiled on a GPU, as is its default."""
    module = importlib.import_module("liger_kernel.chunked_loss")
    loss = module.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETAS[work.name], compiled=work.hidden.is_cuda
    )
    found = loss(work.hidden, work.weight, work.teacher_hidden, work.teacher_weight, work.targets)
    return cast(Tensor, found)


SIDES = {f.__name__: f for f in (ours, products, checkpointed, naive, trl, liger)}


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(spec: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of one side on one work, after a warm-up on a few tokens."""
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    side = SIDES[spec["side"]]
    small = Work.make(spec | {"vocab": min(spec["vocab"], 1000)}, 1, 8)
    side(small).backward()
    del small
    cuda = spec["device"] == "cuda"
    empty = memory.forget(spec["device"])
    work = Work.make(spec, spec["rollouts"], spec["length"])
    if cuda:
        torch.cuda.synchronize()
    before = memory.forget(spec["device"])
    started, used = time.perf_counter(), time.process_time()
    loss = side(work)
    loss.backward()
    if cuda:
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    peak = memory.highest(spec["device"])
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": peak - empty,
        "extra_mib": peak - before,
        "loss": float(loss.detach()),
        "threads": torch.get_num_threads(),
        "load_average": [round(one, 2) for one in os.getloadavg()],
        "versions": _versions(),
    }
    for name, tensor in (("hidden", work.hidden), ("weight", work.weight)):
        gradient = tensor.grad
        assert gradient is not None and gradient.shape == tensor.shape
        found[f"grad_{name}"] = {"norm": float(gradient.float().norm()), "probes": probes(gradient)}
    return found


def probes(gradient: Tensor) -> list[list[float]]:
    """Sums of all rows with random signs, the same on every side: an error in any row shows in them."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, (PROBES, len(gradient)), generator=generator).mul_(2).sub_(1)
    return (signs.float() @ gradient.float().cpu()).tolist()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"torch": str(torch.__version__)}
    for name in ("trl", "liger-kernel", "transformers", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as source:
        given = json.load(source)
    answer = measure(given)
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")

"""Two processes over gloo do what one does: scores are gathered, every rank plans the whole batch and trains its rows.

All lines of the method table run in one pair of processes; the tests compare what came back with a single process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import spawn

from tests.worlds import World, assert_near, plain_update, random_world
from trainer.distributed import here
from trainer.head import head_loss
from trainer.methods import METHODS
from trainer.objective import Objective, Scores
from trainer.scores import ROW_FIELDS, TOKEN_FIELDS

RANKS = 2
V = 24  # more ids than the largest top-k support of the table
WORLDS = {
    "ragged": ([6, 1, 0, 4, 3, 2, 4, 1], 0.25),  # the second rank's longest response is shorter: it pads to gather
    "late": ([2, 5, 3, 1, 6, 0, 6, 4], 0.75),  # past the switch of every schedule
    "idle": ([3, 5, 2, 6, 0, 0, 0, 0], 0.25),  # the second rank has nothing to learn from, and must not hang
}


def whole(name: str) -> World:
    lengths, progress = WORLDS[name]
    return replace(random_world(23, len(lengths), max(lengths), V, lengths=lengths), progress=progress)


def share(world: World, rank: int) -> World:
    """The rows of one rank, cut to its own longest response."""
    mine = world.permuted(hands(len(world.mask))[rank])
    width = int(mine.mask.sum(1).max())
    by_token = ("mask", "hidden", "teacher_hidden", "targets", "rollout_gap", "ref_logprobs")
    cut: dict[str, Any] = {name: getattr(mine, name)[:, :width] for name in by_token}
    return replace(mine, **cut)


def hands(rows: int) -> list[Tensor]:
    """Which rows are whose."""
    return list(torch.arange(rows).chunk(RANKS))


def gather_scores(local: Scores, rows: int) -> Scores:
    """The scores of the whole batch, from each rank's `[b,t]`."""
    ranks, mine = here(), hands(rows)
    width = ranks.most(local.mask.shape[1])
    tokens = {name: ranks.gather(getattr(local, name), mine, width) for name in ("mask", *TOKEN_FIELDS)}
    columns = {name: ranks.gather(getattr(local, name), mine) for name in ROW_FIELDS}
    return Scores(**tokens, **columns, progress=local.progress)


def step(objective: Objective, mine: World, scores: Scores, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One rank's part of an update: loss and head gradient summed over the ranks, its hidden gradient, all of `keep`."""
    plan = objective.plan(scores)
    rows = hands(len(scores.mask))[rank]
    width = mine.mask.shape[1]
    hidden, head = mine.hidden.clone().requires_grad_(), mine.head.clone().requires_grad_()
    inside = plan.live[rows][:, :width] & mine.mask
    place = torch.zeros(mine.mask.shape, dtype=torch.int64)
    place[mine.mask] = torch.arange(int(mine.mask.sum()))
    loss = head_loss(
        hidden[inside],
        head,
        mine.targets[inside],
        place[inside],
        objective,
        plan.map(lambda x: x[rows][:, :width][inside]),
        mine.teacher(),
    )
    loss.backward()
    assert hidden.grad is not None and head.grad is not None
    total = loss.detach().clone()
    dist.all_reduce(total)
    dist.all_reduce(head.grad)
    return total, head.grad, hidden.grad, plan.keep


def work(rank: int, folder: str) -> None:
    """What a process of the pair does: every method in every world, results in a file of its own."""
    torch.set_num_threads(1)
    # The name of the machine may resolve to nothing; the loopback device is always there.
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found = {}
    for name in WORLDS:
        mine = share(whole(name), rank)
        scores = gather_scores(mine.scores(), len(whole(name).mask))
        for method, objective in METHODS.items():
            found[name, method] = step(objective, mine, scores, rank)
    torch.save(found, f"{folder}/rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each rank found, by (world, method)."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WORLDS)
def test_two_processes_do_what_one_does(name: str, method: str, ranks: list[dict[Any, Any]]) -> None:
    world = whole(name)
    expected = plain_update(METHODS[method], world)
    hidden = []
    for rank in range(RANKS):
        loss, head, part, keep = ranks[rank][name, method]
        assert_near(loss, torch.tensor(expected.loss), rtol=1e-5)
        assert_near(head, expected.head, rtol=1e-5)
        assert torch.equal(keep, expected.plan.keep)
        hidden.append(torch.nn.functional.pad(part, (0, 0, 0, world.mask.shape[1] - part.shape[1])))
    assert_near(torch.cat(hidden), expected.hidden, rtol=1e-5)


@pytest.mark.parametrize("method", ["opd", "tip", "fire", "fire-per-domain", "shuffled-weights", "random-filter"])
def test_planning_each_half_by_itself_is_another_method(method: str) -> None:
    """The comparison above has something to find: without the gathering, the mean of the halves differs."""
    world = whole("ragged")
    expected = plain_update(METHODS[method], world)
    alone = [plain_update(METHODS[method], share(world, rank)) for rank in range(RANKS)]
    mean = sum((part.head for part in alone), torch.zeros_like(expected.head)) / RANKS
    assert float((mean - expected.head).abs().max()) > 1e-3 * float(expected.head.abs().max())

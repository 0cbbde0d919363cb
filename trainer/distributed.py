"""Several processes that do what one does: `torchrun --nproc_per_node=N -m harness.cli train …`.

Prompts, samples and scores are small: every process holds the whole batch's, plans it alike, and computes with its own
rows only. What is exchanged here travels through the hosts' memory (gloo); parameters and their gradients are FSDP2's
affair (`trainer.sharding`). NOT run: NCCL, and more than one machine.

A failure in one process ends all of them: who fails first says so in the store that they met in, a thread in each of
the others looks there. torchrun itself ends with the code 1 then, and when it was told to stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import UserError
from trainer.rollout import Sample

FAILED = "opd-failed"
TICK = 0.5  # seconds between looks at the store


@dataclass(frozen=True)
class Ranks:
    """This process among `count`. Every method but the properties is called by all of them, in the same order."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes, prints and evaluates."""
        return self.index == 0

    def slice(self, size: int) -> slice:
        """This process's part of `size` things in a row; parts differ in size by one at most."""
        return slice(size * self.index // self.count, size * (self.index + 1) // self.count)

    def deal(self, lengths: Sequence[int]) -> list[Tensor]:
        """Rows of each process, in order, such that all have about as many tokens: the longest are dealt first."""
        hands: list[list[int]] = [[] for _ in range(self.count)]
        for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            min(hands, key=lambda hand: (sum(lengths[i] for i in hand), len(hand))).append(row)
        return [torch.tensor(sorted(hand), dtype=torch.int64) for hand in hands]

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return max(self.all(number))

    def total(self, number: float) -> float:
        """The sum of the processes' numbers, the same to the bit in each of them."""
        return number if self.count == 1 else sum(self.all(number))

    def all(self, thing: Any) -> list[Any]:
        """What each of the processes has, in their order; for small things."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing)
        return things

    def gather(self, local: Tensor, hands: Sequence[Tensor], columns: int | None = None) -> Tensor:
        """The whole batch's `[B]` or `[B,columns]`, in host memory, from the rows `hands[index]` of each process."""
        if self.count == 1:
            return local
        local = local.detach().cpu()
        rows = max(map(len, hands))
        shape = (rows,) if columns is None else (rows, columns)
        mine = local.new_zeros(shape)
        mine[tuple(slice(0, n) for n in local.shape)] = local
        parts = [torch.empty_like(mine) for _ in hands]
        dist.all_gather(parts, mine)
        whole = local.new_zeros((sum(map(len, hands)), *shape[1:]))
        for hand, part in zip(hands, parts, strict=True):
            whole[hand] = part[: len(hand)]
        return whole

    def gather_samples(self, mine: Sequence[Sample]) -> list[Sample]:
        """The samples of all processes in their order. Log-probs are rounded to float32, as a batch holds them."""
        if self.count == 1:
            return list(mine)
        ids = torch.tensor([i for s in mine for i in s.ids], dtype=torch.int64)
        logprobs = torch.tensor([p for s in mine for p in s.logprobs], dtype=torch.float32)
        found = []
        for lengths, ends, i, p in self.all(([len(s.ids) for s in mine], [s.finish for s in mine], ids, logprobs)):
            split = zip(i.split(lengths), p.split(lengths), ends, strict=True)
            found += [Sample(tuple(a.tolist()), tuple(b.tolist()), end) for a, b, end in split]
        return found

    def together(self, error: Exception | None = None) -> None:
        """Waits for all; where one of them has an error, raises it there and another of its kind in the others.

        Raises:
            OSError: where the file system failed one of the processes. RuntimeError: for any other error of another.
        """
        told = None if error is None else (error.errno if isinstance(error, OSError) else None, str(error))
        errors = [(rank, found) for rank, found in enumerate(self.all(told)) if found is not None]
        if error is not None:
            raise error
        for rank, (number, text) in errors:
            raise RuntimeError(f"process {rank}: {text}") if number is None else OSError(number, os.strerror(number))

    def wait(self) -> None:
        """Waits for all, for as long as it takes: while the first one evaluates."""
        if self.count > 1:
            dist.barrier(group=_patient())


ALONE = Ranks()

_groups: dict[str, Any] = {}


def _patient() -> Any:
    """A group of all processes whose barrier may take days: a death is noticed through the store, not by time-out."""
    if "patient" not in _groups:
        _groups["patient"] = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    return _groups["patient"]


def here() -> Ranks:
    """This process among those of the process group; alone where there is none."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def join(device: str = "cpu", patience: int = 3600) -> Ranks:
    """Meets the other processes that torchrun started, once; alone without torchrun. All but the first fall silent.

    Args:
        patience: seconds after which a collective gives up.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return here()
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback and os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        # The name of the machine may resolve to nothing; the loopback device is always there.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    if device.startswith("cuda"):  # not run
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, count = next(iter(dist.rendezvous("env://")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
        timeout=timedelta(seconds=patience),
        store=store,
        rank=rank,
        world_size=count,
    )
    _groups.clear()
    _groups["store"] = store
    _patient()
    threading.Thread(target=_watch, args=(store.clone(), os.getppid()), daemon=True).start()
    if rank:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return Ranks(rank, count)


def ensure_group(device: str) -> None:
    """A process group of one where there is none: FSDP2 wants one also in a single process."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def leave() -> None:
    """Parts from the others, whose work is done, too."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
        _groups.clear()
        dist.destroy_process_group()


def _watch(store: Any, launcher: int) -> None:
    """Ends this process once another has failed, whatever collective it is stuck in; saves it when torchrun dies."""
    told = False
    while _groups and not _groups.get("failing"):
        if not told and os.getppid() != launcher:  # orphans would go on training, and hold the run's lock
            os.kill(os.getpid(), signal.SIGTERM)
            told = True
        try:
            if store.check([FAILED]):
                os._exit(int(store.get(FAILED)))
        except RuntimeError:  # the store went with torchrun
            if told:
                return
        time.sleep(TICK)


@contextlib.contextmanager
def one_voice(patience: int = 3600) -> Iterator[None]:
    """Around all that several processes do: of the errors in which they end, one is heard, the first.

    Raises:
        UserError: also where the connection to the others broke, or `patience` was not enough.
    """
    if here().count == 1:
        yield
        return
    try:
        yield
    except BaseException as error:
        if not isinstance(error, UserError) and (lost := _lost(error, patience)):
            error = lost
        if not _claim(error):
            raise SystemExit(_code(error)) from None
        raise error from None if isinstance(error, UserError) else error.__cause__


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def _claim(error: BaseException) -> bool:
    """Whether this process is the first to fail; tells the others if so."""
    _groups["failing"] = True
    store = _groups.get("store")
    if store is None:
        return True
    try:
        if store.add(f"{FAILED}-count", 1) > 1:
            return False
        store.set(FAILED, str(_code(error)))
    except RuntimeError:  # the store went with the process that kept it
        return False
    return True


def _lost(error: BaseException, patience: int) -> UserError | None:
    """What to say of a broken or timed-out connection."""
    if not isinstance(error, RuntimeError):
        return None
    text = str(error).lower()
    again = "the same command continues from the last checkpoint"
    if "timed out" in text or "timeout" in text:
        return UserError(
            f"process {here().index} waited {patience} s for the others: {again}; if a step may take longer, raise "
            "machine.patience"
        )
    if "connection closed" in text or "connection reset" in text or "broken pipe" in text:
        return UserError(f"process {here().index} lost the connection to another one, which has died: {again}")
    return None

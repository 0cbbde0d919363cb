"""What changes during a run, and its checkpoints: a folder that appears whole or not at all.

    <checkpoint>/           a plain transformers folder, whatever trained it: whole, adapters merged
                 state.json      step, counters, identity
                 optimiser.pt    of one process that holds all parameters
                 shards/         instead, where parameters are sharded or there are adapters: what is trained and the
                                 optimiser, in PyTorch's distributed format; any number of processes can read it

Every form can be continued by any number of processes. Weights are float32 in `shards/` also where the folder itself
is 16-bit. Several machines need a file system that all of them see.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from trainer.config import RunSpec, differences
from trainer.errors import UserError
from trainer.policy import Policy

COUNTERS = ("step", "generated_tokens", "trained_tokens", "skipped")


@dataclass
class TrainState:
    """All that changes during a run."""

    policy: Policy
    optimiser: torch.optim.Optimizer
    identity: dict[str, str]
    step: int = 0  # updates done
    generated_tokens: int = 0
    trained_tokens: int = 0
    skipped: int = 0  # in a row

    @classmethod
    def start(cls, spec: RunSpec, policy: Policy) -> TrainState:
        """A fresh state around the student's weights."""
        o = spec.optim
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay)
        return cls(policy, optimiser, spec.identity())

    def save(self, folder: Path) -> None:
        """Writes a checkpoint that appears whole or not at all. All processes call it.

        Raises:
            OSError: as the file system gives it (no space left); what was half-written is removed.
        """
        ranks = self.policy.ranks
        partial = folder.with_name(folder.name + ".partial")
        if ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        try:
            ranks.together()
            self._write(partial)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _os_error(error, folder) or error from None
        if ranks.first:
            # Moved aside, not removed, so that no kill leaves half of a folder under the checkpoint's name.
            old = folder.with_name(folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        ranks.together()

    def _write(self, partial: Path) -> None:
        policy, problem = self.policy, None
        try:
            policy.save(partial)
            if not (policy.sharded or policy.adapters):
                with (partial / "optimiser.pt").open("wb") as stream:
                    torch.save(self.optimiser.state_dict(), stream)
        except Exception as error:
            problem = error
        policy.ranks.together(problem)
        if policy.sharded or policy.adapters:
            _write_shards(self._trained(), partial / "shards")
        if policy.ranks.first:
            counters = {name: getattr(self, name) for name in COUNTERS}
            (partial / "state.json").write_text(json.dumps({"identity": self.identity, **counters}))

    def _trained(self) -> dict[str, Tensor]:
        """Trained parameters and their optimiser state by name: shards where they are sharded."""
        found = {}
        for name, parameter in self.policy.model.named_parameters():
            if parameter.requires_grad:
                found[f"model/{name}"] = parameter.detach()
                for part, value in self.optimiser.state.get(parameter, {}).items():
                    found[f"{part}/{name}"] = value
        return found

    @classmethod
    def load(cls, spec: RunSpec, folder: Path, student: Callable[[Path | None], Policy] | None = None) -> TrainState:
        """Reads a checkpoint of this very run.

        Args:
            student: makes the run's policy, ready for training, of a transformers folder; of the student that the run
                starts from where it is given None. Needed where the policy is sharded or has adapters.

        Raises:
            UserError: if it belongs to another run, naming the fields that differ, or cannot be read.
        """
        try:
            kept = json.loads((folder / "state.json").read_text())
            identity, counters = kept["identity"], {name: int(kept[name]) for name in COUNTERS}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{folder} is not a whole checkpoint (no readable state.json): remove it, and the run begins anew"
            ) from None
        if changed := differences(identity, spec.identity()):
            raise UserError(f"{folder} is a checkpoint of another run: it differs in {', '.join(changed)}")
        try:
            if student is None:
                policy = Policy.load(folder, spec.machine.device, getattr(torch, spec.dtype))
            else:  # adapters belong to the weights they were made for
                policy = student(None if spec.lora.rank else folder)
        except UserError as error:
            if spec.lora.rank:
                raise
            raise UserError(f"{error}: remove {folder}, and the run begins anew") from None
        state = cls.start(spec, policy)
        shards = (folder / "shards").is_dir()
        source = folder / ("shards" if shards else "optimiser.pt")
        try:
            if shards:
                state._read_shards(source)
            else:
                state._take_over(torch.load(source, weights_only=True, mmap=policy.sharded))
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{source} cannot be read ({reason}): remove {folder}, and the run begins anew") from None
        for name, count in counters.items():
            setattr(state, name, count)
        return state

    def _take_over(self, kept: dict[str, Any]) -> None:
        """The optimiser's state from one process that held all parameters."""
        if self.policy.sharded:
            from torch.distributed.tensor import DTensor, distribute_tensor

            trained = [p for p in self.policy.model.parameters() if p.requires_grad]
            for index, parts in kept["state"].items():
                like = trained[index]
                assert isinstance(like, DTensor)
                kept["state"][index] = {
                    name: distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
                    if value.dim()
                    else value
                    for name, value in parts.items()
                }
        self.optimiser.load_state_dict(kept)

    def _read_shards(self, folder: Path) -> None:
        import torch.distributed.checkpoint as dcp

        known = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        wanted = self._trained()
        for name, parameter in self.policy.model.named_parameters():
            for part in ("step", "exp_avg", "exp_avg_sq"):
                if f"{part}/{name}" in known:
                    empty = torch.zeros(()) if part == "step" else torch.zeros_like(parameter.detach())
                    self.optimiser.state[parameter][part] = wanted[f"{part}/{name}"] = empty
        with _ordinary_errors():
            dcp.load(wanted, storage_reader=dcp.FileSystemReader(folder), no_dist=self.policy.ranks.count == 1)


def _write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """Every process writes what it holds, at the same time."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, thread_count=1)
    with _ordinary_errors():
        dcp.save(tensors, storage_writer=writer, no_dist=not dist.is_initialized())


@contextlib.contextmanager
def _ordinary_errors() -> Iterator[None]:
    """A distributed checkpoint's failure is a BaseException around those of the processes: raises one of these."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():  # that there is but one process is no news
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as error:
        found = [problem for problem, _ in error.failures.values() if isinstance(problem, Exception)]
        found.sort(key=lambda problem: not isinstance(problem, OSError))
        raise (found[0] if found else RuntimeError(str(error))) from None


def _os_error(error: Exception, folder: Path) -> OSError | None:
    """The file system's error behind one of torch, which keeps it as context, or safetensors, which prints it."""
    if isinstance(error.__context__, OSError):
        return error.__context__
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])), str(folder))
    return None

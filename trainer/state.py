"""What changes during a run, and its checkpoints: a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch

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
        optimiser = torch.optim.AdamW(
            policy.model.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay
        )
        return cls(policy, optimiser, spec.identity())

    def save(self, folder: Path) -> None:
        """Writes a checkpoint that appears whole or not at all.

        Raises:
            OSError: as the file system gives it (no space left); what was half-written is removed.
        """
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self.policy.save(partial)
            with (partial / "optimiser.pt").open("wb") as stream:
                torch.save(self.optimiser.state_dict(), stream)
            counters = {name: getattr(self, name) for name in COUNTERS}
            (partial / "state.json").write_text(json.dumps({"identity": self.identity, **counters}))
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _os_error(error, folder) or error from None
        # Moved aside, not removed, so that no kill leaves half of a folder under the checkpoint's name.
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, spec: RunSpec, folder: Path) -> TrainState:
        """Reads a checkpoint of this very run.

        Raises:
            UserError: if it belongs to another run, naming the fields that differ, or cannot be read.
        """
        try:
            kept = json.loads((folder / "state.json").read_text())
            identity, counters = kept["identity"], {name: int(kept[name]) for name in COUNTERS}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{folder} is not a whole checkpoint (no readable state.json): remove it") from None
        if changed := differences(identity, spec.identity()):
            raise UserError(f"{folder} is a checkpoint of another run: it differs in {', '.join(changed)}")
        policy = Policy.load(folder, spec.machine.device, getattr(torch, spec.dtype))
        state = cls.start(spec, policy)
        try:
            state.optimiser.load_state_dict(torch.load(folder / "optimiser.pt", weights_only=True))
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}/optimiser.pt cannot be read ({reason}): remove {folder}") from None
        for name, count in counters.items():
            setattr(state, name, count)
        return state


def _os_error(error: Exception, folder: Path) -> OSError | None:
    """The file system's error behind one of torch, which keeps it as context, or safetensors, which prints it."""
    if isinstance(error.__context__, OSError):
        return error.__context__
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return OSError(int(found[1]), os.strerror(int(found[1])), str(folder))
    return None

"""What to do when memory runs out."""

from __future__ import annotations

from trainer.config import Machine
from trainer.distributed import Ranks


def out_of_memory(error: Exception, machine: Machine, ranks: Ranks) -> str:
    """What to do about an error that says so, none of which changes a result; "" for other errors."""
    from torch import OutOfMemoryError

    said = str(error)
    if not isinstance(error, MemoryError | OutOfMemoryError) and "can't allocate memory" not in said:
        return ""
    remedies = [f"machine.micro_batch below {machine.micro_batch}" if machine.micro_batch > 1 else ""]
    remedies += [f"machine.token_budget below {machine.token_budget}" if machine.token_budget else ""]
    remedies += [f"machine.engine_batch below {machine.engine_batch}" if machine.engine_batch > 1 else ""]
    remedies += ["" if machine.gradient_checkpointing else "machine.gradient_checkpointing=true"]
    if machine.device != "cpu":
        remedies += ["" if machine.offload_teacher else "machine.offload_teacher=true"]
        remedies += ["" if machine.shard or ranks.count > 1 else "more GPUs (torchrun)"]
    return (
        f"{machine.device} has not enough memory ({(said.splitlines() or [type(error).__name__])[0][:160]}): try --set "
        f"{', or '.join(filter(None, remedies)) or 'a smaller model'}; the same command then continues from the last "
        "checkpoint with the same results"
    )

"""torch, imported when something is first computed: what is only listed, compared or hashed does without it.

    from trainer.late import Tensor, torch

`Tensor` is for annotations. For `isinstance` write `torch.Tensor`; anything else fails at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
else:
    Tensor = Any

    class _Late:
        def __getattr__(self, name: str) -> Any:
            import torch

            return getattr(torch, name)

    torch = _Late()

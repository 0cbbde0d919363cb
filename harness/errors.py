"""The trainer's `UserError`, under the name the harness uses."""

from __future__ import annotations

from trainer.errors import UserError

__all__ = ["UserError"]

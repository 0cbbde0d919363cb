"""The toy world: two generated reasoning domains, a student, and a specialist teacher for each domain."""

from pathlib import Path
from typing import Final

CHECKPOINTS: Final = Path(__file__).parent / "checkpoints"
STUDENT: Final = CHECKPOINTS / "student"
TEACHERS: Final = {"math": CHECKPOINTS / "teacher-math", "code": CHECKPOINTS / "teacher-code"}

"""The toy world: two generated reasoning domains, a student, and a specialist teacher for each domain.

For audits there are two more students, which differ by their seed, and a math teacher with a known flaw.
"""

from pathlib import Path
from typing import Final

CHECKPOINTS: Final = Path(__file__).parent / "checkpoints"
STUDENT: Final = CHECKPOINTS / "student"
STUDENTS: Final = {name: CHECKPOINTS / name for name in ("student", "student-1", "student-2")}
FLAWED_TEACHER: Final = CHECKPOINTS / "teacher-flawed"
TEACHERS: Final = {"math": CHECKPOINTS / "teacher-math", "code": CHECKPOINTS / "teacher-code"}

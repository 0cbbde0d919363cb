"""The one exception for a mistake that the person at the keyboard can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one sentence that names the file, row or option and says what to do.

    The command line prints it on stderr and exits with 2; nothing else in the project catches it.
    """


def check_fraction(name: str, value: float, whole: float = 1.0) -> None:
    """Refuses what is no part of `whole`, NaN included: a percentage where a fraction was meant, say."""
    if not 0.0 <= value <= whole:
        raise UserError(f"{name} must lie between 0 and {whole:g}, got {value:g}")

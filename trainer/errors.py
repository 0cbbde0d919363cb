"""The one exception for a mistake that the person at the keyboard can mend."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one sentence that names the file, row or option and says what to do.

    The command line prints it on stderr and exits with 2; nothing else in the project catches it.
    """

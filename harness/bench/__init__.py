"""Speed measurements: this project and a peer side by side, on the same work, in one run.

``python -m harness.bench NAME``, or ``all`` of them (`make bench`); each module holds ``HELP``, ``arguments(parser)``
and ``run(args)``. Two numbers of one run make a ratio; a time alone says more about the machine than about the code.
"""

from __future__ import annotations

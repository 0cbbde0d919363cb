"""Verdicts already found, by (checker version, bench, gold, prediction), in memory and optionally in a file."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Final

from harness.answers.strict import Outcome

Key = tuple[str, str, str, str]
MAX_ENTRIES: Final = 500_000


class Memo:
    """A dictionary of outcomes; with a ``path``, one JSON object a line that a later process starts from.

    Only decided verdicts belong here: a timeout on a busy machine must not become the truth of the next run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._found: dict[Key, Outcome] = {}
        self._unsaved: list[Key] = []
        self._lock = threading.Lock()
        if path is not None and path.exists():
            self._load(path)

    def _load(self, path: Path) -> None:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    key = (row["version"], row["bench"], row["gold"], row["prediction"])
                    self._found[key] = Outcome(row["equal"], row["reason"], row["parsed"])
                except (ValueError, KeyError, TypeError):
                    continue  # the line that a killed process was writing: it is found again

    def get(self, key: Key) -> Outcome | None:
        return self._found.get(key)

    def put(self, key: Key, outcome: Outcome) -> None:
        with self._lock:
            if len(self._found) >= MAX_ENTRIES:
                self._found.clear()
            self._found[key] = outcome
            if self.path is not None:
                self._unsaved.append(key)

    def save(self) -> None:
        """Appends what is new; safe to call at any time."""
        with self._lock:
            rows, self._unsaved = self._unsaved, []
            if not rows or self.path is None:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(self._line(key) for key in rows if key in self._found)
            with self.path.open("a", encoding="utf-8") as file:
                # an unfinished last line of a killed process must not swallow the first new one
                file.write(("\n" if file.tell() else "") + text)

    def _line(self, key: Key) -> str:
        version, bench, gold, prediction = key
        outcome = self._found[key]
        row = {
            "version": version,
            "bench": bench,
            "gold": gold,
            "prediction": prediction,
            "equal": outcome.equal,
            "reason": outcome.reason,
            "parsed": outcome.parsed,
        }
        return json.dumps(row) + "\n"

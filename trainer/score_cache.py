"""Teachers' log-probs on disk, keyed by teacher and token ids.

Made for remote teachers, whose answers take most of a step: several arms on the same frozen rollouts ask once, and a
run that is killed while its teacher scores asks after its resume only for what had not come yet. Rollouts that a
training student draws are new at every step, so apart from a resume they are never found; and a local teacher scores
about as fast as anything is read back.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import time
import warnings
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.rollout import Rollouts
from trainer.teachers import Teacher, TeacherScores, flatten, token_ids

_HEADER: Final = struct.Struct("<4s16sIII")  # magic, key, tokens, 1 with entropies, CRC of what follows
_MAGIC: Final = b"opd1"
_SEGMENTS: Final = 8  # of a full cache: it forgets an eighth at a time
_NUMBER: Final = itertools.count()


class Place(NamedTuple):
    segment: Path
    offset: int
    tokens: int
    entropy: bool


class ScoreCache:
    """A folder of append-only segments that any number of processes may share.

    Every process writes segments of its own and reads those of all, so nothing is ever repaired: a record that a kill
    cut short is the end of its segment. A record whose checksum is wrong is a miss. When the folder is full, its oldest
    segments are removed.

    Args:
        max_bytes: of the folder, about: several processes may each exceed it by a segment, an eighth.

    Raises:
        UserError: if the folder cannot be made.
    """

    def __init__(self, folder: Path, max_bytes: int = 2**30) -> None:
        if max_bytes < 1:
            raise UserError("a score cache needs room: give max_bytes")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot hold cached scores ({error.strerror}): name another folder") from None
        self.folder, self.max_bytes = folder, max_bytes
        self._index: dict[bytes, Place] = {}
        self._read: dict[Path, int] = {}  # bytes of each segment that the index covers
        self._own: Path | None = None
        self._broken = False
        self.refresh()

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> None:
        """Takes note of what other processes have written or removed since."""
        sizes: dict[Path, int] = {}
        for path in self.folder.glob("*.scores"):
            try:
                sizes[path] = path.stat().st_size
            except FileNotFoundError:  # removed by another process between the two calls
                continue
        for path in [path for path in self._read if path not in sizes]:
            self._forget(path)
        for path, size in sizes.items():
            if size > self._read.get(path, 0) and path != self._own:
                self._scan(path, size)

    def get(self, key: bytes) -> tuple[Tensor, Tensor | None] | None:
        """(log-probs, entropies if kept with them) as they were put, `[n]` float32."""
        if (place := self._index.get(key)) is None:
            return None
        try:
            with place.segment.open("rb") as stream:
                stream.seek(place.offset)
                _, found, tokens, entropy, crc = _HEADER.unpack(stream.read(_HEADER.size))
                body = stream.read(4 * tokens * (1 + entropy))
        except (OSError, struct.error):
            body, found, crc = b"", b"", -1
        if found != key or zlib.crc32(body) != crc:
            del self._index[key]
            return None
        values = torch.frombuffer(bytearray(body), dtype=torch.float32)
        return values[: place.tokens], values[place.tokens :] if place.entropy else None

    def put(self, key: bytes, logprobs: Tensor, entropy: Tensor | None = None) -> None:
        """Keeps the scores of one response. A folder that cannot be written to is a warning, once, and no more."""
        if key in self._index or self._broken or not len(logprobs):
            return
        values = [logprobs] if entropy is None else [logprobs, entropy]
        body = b"".join(value.detach().cpu().float().numpy().tobytes() for value in values)
        header = _HEADER.pack(_MAGIC, key, len(logprobs), entropy is not None, zlib.crc32(body))
        size = len(header) + len(body)
        if size > self.max_bytes:
            return
        try:
            own = self._segment(size)
            with own.open("ab", buffering=0) as stream:
                at = stream.tell()
                if stream.write(header + body) != size:
                    raise OSError("no space left")
        except OSError as error:
            self._broken = True
            warnings.warn(f"scores are no longer cached: {self.folder} cannot be written to ({error})", stacklevel=2)
            return
        self._index[key] = Place(own, at, len(logprobs), entropy is not None)
        self._read[own] = at + size

    def _segment(self, size: int) -> Path:
        """The segment to append to, with room for `size` bytes more in it and in the folder."""
        if self._own is not None and not self._own.exists():  # another process needed the room
            self._read.setdefault(self._own, 0)
            self._forget(self._own)
            self._own = None
        if self._own is None or self._read.get(self._own, 0) + size > max(size, self.max_bytes // _SEGMENTS):
            self._own = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{next(_NUMBER)}.scores"
        while sum(self._read.values()) + size > self.max_bytes:
            if (oldest := min(self._read)) == self._own:
                self._own = None
                return self._segment(size)
            oldest.unlink(missing_ok=True)
            self._forget(oldest)
        return self._own

    def _forget(self, path: Path) -> None:
        del self._read[path]
        self._index = {key: place for key, place in self._index.items() if place.segment != path}

    def _scan(self, path: Path, size: int) -> None:
        """Indexes the whole records from where the last scan ended; one that is being written is left for later."""
        at = self._read.get(path, 0)
        try:
            with path.open("rb") as stream:
                while at + _HEADER.size <= size:
                    stream.seek(at)
                    magic, key, tokens, entropy, _ = _HEADER.unpack(stream.read(_HEADER.size))
                    end = at + _HEADER.size + 4 * tokens * (1 + entropy)
                    if magic != _MAGIC or entropy > 1 or end > size:
                        break
                    self._index.setdefault(key, Place(path, at, tokens, bool(entropy)))
                    at = end
        except (OSError, struct.error):
            pass
        self._read[path] = at


def score_key(fingerprint: str, prompt: Sequence[int], response: Sequence[int]) -> bytes:
    """16 bytes that stand for a teacher and the token ids it was shown."""
    digest = hashlib.blake2b(fingerprint.encode() + b"\0", digest_size=16)
    digest.update(struct.pack("<q", len(prompt)) + array("q", [*prompt, *response]).tobytes())
    return digest.digest()


class CachedTeacher:
    """A teacher whose log-probs (and entropies, where it knows them) are looked up before it is asked.

    A remote teacher is asked for the missing rollouts only, and each is kept as it comes. A local one scores the batch
    as a whole where any is missing: in another batch it might round in another way. Either way the numbers are, to the
    bit, those of the teacher alone. Logits are never kept: a method that needs them, or the most likely ids, goes
    without a cache (`cached` sees to that), and the exact reverse KL is not there to be recorded.

    Args:
        fingerprint: of the teacher: its content, dtype, and whatever else its numbers depend on.

    Attributes:
        hits, misses: rollouts so far.
    """

    def __init__(self, teacher: Any, cache: ScoreCache, fingerprint: str) -> None:
        self.teacher, self.cache, self.fingerprint = teacher, cache, fingerprint
        known = {"entropy"} & teacher.provides
        self.provides = frozenset({"logprobs"} | known)
        self.hits = self.misses = 0

    def score(self, rollouts: Rollouts) -> TeacherScores:
        rows = token_ids(rollouts)
        keys = [score_key(self.fingerprint, *row) for row in rows]
        self.cache.refresh()
        empty = torch.zeros(0)
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for row, key in enumerate(keys):
            if not rows[row][1]:
                found[row] = (empty, empty)
            elif (kept := self.cache.get(key)) is not None and (kept[1] is not None or "entropy" not in self.provides):
                found[row] = kept
        missing = [row for row in range(len(rows)) if row not in found]
        self.hits += len(rows) - len(missing)
        self.misses += len(missing)
        if missing and hasattr(self.teacher, "score_rows"):
            for index, scores in self.teacher.score_rows([rows[row] for row in missing]):
                found[missing[index]] = (scores.logprobs, None)
                self.cache.put(keys[missing[index]], scores.logprobs)
        elif missing:
            lengths = [len(response) for _, response in rows]
            logprobs, entropy = flatten(self.teacher.score(rollouts), rollouts.targets)
            entropies = [None] * len(rows) if entropy is None else entropy.split(lengths)
            for row, pair in enumerate(zip(logprobs.split(lengths), entropies, strict=True)):
                found[row] = pair
                self.cache.put(keys[row], *pair)
        device = rollouts.mask.device
        logprobs = torch.cat([empty, *(found[row][0].cpu() for row in range(len(rows)))]).to(device)
        if "entropy" not in self.provides:
            return TeacherScores(logprobs=logprobs)
        known = [value.cpu() for row in range(len(rows)) if (value := found[row][1]) is not None]
        return TeacherScores(logprobs=logprobs, entropy=torch.cat([empty, *known]).to(device))


def cached(teacher: Teacher, cache: ScoreCache, fingerprint: str, needs: frozenset[str]) -> Teacher:
    """The teacher behind the cache, or as it is where a method needs more than the cache keeps.

    A teacher whose weights lie in several processes stays as it is, too: all of them have to ask it in step.
    """
    wrapped = CachedTeacher(teacher, cache, fingerprint)
    in_step = getattr(getattr(teacher, "policy", None), "sharded", False)
    return wrapped if needs <= wrapped.provides and not in_step else teacher

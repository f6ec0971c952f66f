"""A set of ids in fixed memory for each: what a million rows need to be told apart.

An id is held as its 128-bit xxh3 digest in a table with open addressing: 16 bytes a slot, of which
at most two of three are taken. Two ids of ten million have the same digest with probability 1e-25.
"""

import xxhash

_BYTES = 16
_EMPTY = bytes(_BYTES)


class IdSet:
    """Ids that were seen: what `records.first_of_each_id` takes as `seen`."""

    def __init__(self) -> None:
        self._slots = bytearray(1024 * _BYTES)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and self._place(_digest(id_))[1]

    def add(self, id_: str) -> None:
        """Takes an id, which may be in it."""
        digest = _digest(id_)
        place, is_there = self._place(digest)
        if is_there:
            return
        self._slots[place : place + _BYTES] = digest
        self._count += 1
        if 3 * self._count * _BYTES > 2 * len(self._slots):
            self._grow()

    def _place(self, digest: bytes) -> tuple[int, bool]:
        """Where a digest stands, or would; and whether it does."""
        slots = self._slots
        place = int.from_bytes(digest[:8]) * _BYTES % len(slots)
        while (held := slots[place : place + _BYTES]) != digest:
            if held == _EMPTY:
                return place, False
            place = (place + _BYTES) % len(slots)
        return place, True

    def _grow(self) -> None:
        old, self._slots = self._slots, bytearray(2 * len(self._slots))
        for start in range(0, len(old), _BYTES):
            if (digest := bytes(old[start : start + _BYTES])) != _EMPTY:
                place, _ = self._place(digest)
                self._slots[place : place + _BYTES] = digest


def _digest(id_: str) -> bytes:
    return xxhash.xxh3_128_digest(id_.encode())

"""Bodies that need not be kept: a seed and a size give the same bytes again."""

import hashlib
import io
import random

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

PIECE = MIB


def body(size, seed=0):
    """`size` bytes that look random and depend on nothing but the seed."""
    return b"".join(pieces(size, seed))


def pieces(size, seed=0):
    """The same bytes, a MiB at a time."""
    draw = random.Random(seed)
    # One random MiB, told apart by its number: quick to make and no two pieces are equal.
    base = draw.randbytes(min(size, PIECE))
    for number in range(-(-size // PIECE) if size else 0):
        length = min(PIECE, size - number * PIECE)
        yield (number.to_bytes(8, "little") + base)[:length]


def digest(stream):
    """SHA-256 of an iterable of bytes."""
    sha = hashlib.sha256()
    for piece in stream:
        sha.update(piece)
    return sha.hexdigest()


class Reader(io.RawIOBase):
    """The bytes of a body as a file that holds at most one MiB in memory. A read may give less than it was asked for."""

    def __init__(self, size, seed=0):
        self._pieces = pieces(size, seed)
        self._rest = b""

    def readable(self):
        return True

    def readinto(self, out):
        if not self._rest:
            self._rest = next(self._pieces, b"")
        count = min(len(out), len(self._rest))
        out[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

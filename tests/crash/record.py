"""What the checker knows about every key: the values that a reader may see.

A key has one writer at a time, so after an acknowledged change exactly one value is allowed. A change whose answer
never came may have happened, may not have, and may still happen; the key then keeps both values and is never written
again. Of its two values the newer one, once seen, must stay.
"""

import hashlib
import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """An object's bytes, by what makes them again."""

    size: int
    seed: int

    def bytes(self):
        return random.Random(self.seed).randbytes(self.size)


#: The value of a key that holds nothing.
ABSENT = None


@dataclass
class Key:
    """The history of one key, as far as it still matters."""

    name: str
    now: Value | None = ABSENT
    maybe: list = field(default_factory=list)
    etag: str | None = None

    @property
    def is_certain(self):
        return not self.maybe

    def acknowledged(self, value, etag=None):
        """The server said that the change is done."""
        assert self.is_certain, f"{self.name} was written after an unanswered change"
        self.now, self.etag = value, etag

    def unanswered(self, value):
        """The change was sent, nobody knows what became of it."""
        self.maybe.append(value)

    def seen(self, found):
        """Judges what a reader got (bytes, or None for no such key); returns a complaint or None."""
        for value in [self.now, *self.maybe]:
            if _fits(value, found):
                if value is not self.now:
                    # It has happened: from now on it must stay.
                    self.now, self.maybe, self.etag = value, [], None
                return None
        return f"{self.name}: read {_describe(found)}, allowed are {[self.now, *self.maybe]}"

    def may_be_listed(self):
        return any(value is not ABSENT for value in [self.now, *self.maybe])

    def must_be_listed(self):
        return all(value is not ABSENT for value in [self.now, *self.maybe])

    def sizes(self):
        return {value.size for value in [self.now, *self.maybe] if value is not ABSENT}


def _fits(value, found):
    if value is ABSENT or found is None:
        return value is ABSENT and found is None
    return len(found) == value.size and found == value.bytes()


def _describe(found):
    if found is None:
        return "nothing"
    return f"{len(found)} bytes with SHA-256 {hashlib.sha256(found).hexdigest()[:16]}"

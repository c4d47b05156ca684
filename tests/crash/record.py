"""What the checker knows about every key: the values that a reader may see.

A `Key` has one writer at a time, so after an acknowledged change exactly one value is allowed. A change whose answer
never came may have happened, may not have, and may still happen; the key then keeps both values and is never written
again. Of its two values the newer one, once seen, must stay.

A `Shared` key has many writers at the same time. A write happens at one moment between its start and its answer; one
that was never answered may happen at any moment after its start, once. A reader may see a value unless it was surely
replaced before the read began: unless something else was there after the value's write was over, and before the read.
"""

import hashlib
import math
import random
import threading
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


@dataclass(eq=False)
class Write:
    """One write of a shared key; it happened, or happens, between these two ticks."""

    value: Value | None
    began: int
    end: float = math.inf


@dataclass(eq=False)
class Fact:
    """At a moment between these two ticks the key held the value of one of these writes."""

    writes: list
    began: int
    end: float


class Shared:
    """A key that many write and read at the same time, as far as its history still matters."""

    def __init__(self, name):
        self.name = name
        self._lock = threading.Lock()
        self._ticks = 0
        self._writes = [Write(ABSENT, 0, 0)]
        self._facts = []
        self._reads = []

    def begin_write(self, value):
        """To be called before the write is sent. Without an answer nothing else is to be called."""
        with self._lock:
            self._writes.append(Write(value, self._tick()))
            return self._writes[-1]

    def acknowledged(self, write):
        with self._lock:
            write.end = min(write.end, self._tick())
            self._facts.append(Fact([write], write.began, write.end))
            self._forget()

    def refused(self, write):
        """The server said that it did nothing, or never got the request."""
        with self._lock:
            self._writes.remove(write)

    def begin_read(self):
        """To be called before the read is sent; its result is for `seen` or `end_read`."""
        with self._lock:
            self._reads.append(self._tick())
            return self._reads[-1]

    def end_read(self, began):
        """The read got no answer."""
        with self._lock:
            self._reads.remove(began)

    def seen(self, found, began):
        """Judges what a reader got (bytes, or None for no such key); returns a complaint or None."""
        with self._lock:
            end = self._tick()
            self._reads.remove(began)
            possible = self._possible(began)
            sources = [write for write in possible if _fits(write.value, found)]
            if not sources:
                return f"{self.name}: read {_describe(found)}, allowed are {[write.value for write in possible]}"
            if len(sources) == 1:
                # It has happened, whether it was answered or not.
                sources[0].end = min(sources[0].end, end)
            self._facts.append(Fact(sources, began, end))
            self._forget()
            return None

    def possible(self, began):
        """The values that a read may see which began then and is over now."""
        with self._lock:
            self._reads.remove(began)
            return [write.value for write in self._possible(began)]

    def _tick(self):
        self._ticks += 1
        return self._ticks

    def _possible(self, began):
        return [write for write in self._writes if not self._is_replaced(write, began)]

    def _is_replaced(self, write, before):
        return any(
            write.end < fact.began and fact.end < before and write not in fact.writes for fact in self._facts
        )

    def _forget(self):
        """Forgets what no read can see that goes on now or begins later, and what only ruled that out."""
        horizon = min(self._reads, default=self._tick())
        self._writes = self._possible(horizon)
        self._facts = [fact for fact in self._facts if fact.end >= horizon]


def _fits(value, found):
    if value is ABSENT or found is None:
        return value is ABSENT and found is None
    return len(found) == value.size and found == value.bytes()


def _describe(found):
    if found is None:
        return "nothing"
    return f"{len(found)} bytes with SHA-256 {hashlib.sha256(found).hexdigest()[:16]}"

"""The checker itself must notice every kind of loss."""

import random

import pytest

from record import ABSENT, Key, Shared, Value

OLD, NEW = Value(100, 1), Value(40_000, 2)


def key(now=ABSENT, maybe=()):
    return Key("k", now, list(maybe))


def test_an_acknowledged_value_is_the_only_one():
    assert key(OLD).seen(OLD.bytes()) is None
    for wrong in [None, b"", NEW.bytes(), OLD.bytes()[:-1], OLD.bytes()[:-1] + b"?", OLD.bytes() + b"?"]:
        assert key(OLD).seen(wrong)


def test_an_acknowledged_delete_stays():
    assert key().seen(None) is None
    assert key().seen(OLD.bytes())
    assert key().seen(b"")


def test_an_unanswered_change_may_have_happened():
    for found in [OLD.bytes(), NEW.bytes()]:
        assert key(OLD, [NEW]).seen(found) is None
    assert key(OLD, [NEW]).seen(None)
    assert key(OLD, [ABSENT]).seen(None) is None


def test_an_unanswered_change_that_was_seen_must_stay():
    k = key(OLD, [NEW])
    assert k.seen(OLD.bytes()) is None
    assert k.seen(NEW.bytes()) is None
    assert k.seen(OLD.bytes())


def test_what_a_list_must_hold():
    assert key(OLD).must_be_listed()
    assert not key().may_be_listed()
    assert key(OLD, [ABSENT]).may_be_listed() and not key(OLD, [ABSENT]).must_be_listed()
    assert key(OLD, [NEW]).must_be_listed()


# Keys with many writers.


def wrote(k, value):
    """A write that was answered before anything else began."""
    write = k.begin_write(value)
    k.acknowledged(write)
    return write


def look(k, value):
    return k.seen(value and value.bytes(), k.begin_read())


def test_the_last_of_writes_one_after_the_other_is_the_only_one():
    k = Shared("k")
    assert look(k, ABSENT) is None
    wrote(k, OLD)
    wrote(k, NEW)
    assert look(k, NEW) is None
    assert look(k, OLD) and look(k, ABSENT) and look(k, Value(7, 7))


def test_of_writes_at_the_same_time_any_may_be_last_but_only_one_is():
    for last, other in [(OLD, NEW), (NEW, OLD)]:
        k = Shared("k")
        writes = [k.begin_write(OLD), k.begin_write(NEW)]
        for write in writes:
            k.acknowledged(write)
        assert look(k, ABSENT)
        assert look(k, last) is None
        assert look(k, last) is None
        assert look(k, other)


def test_a_value_that_was_seen_before_its_answer_must_stay():
    k = Shared("k")
    wrote(k, OLD)
    write = k.begin_write(NEW)
    assert look(k, OLD) is None
    assert look(k, NEW) is None
    assert look(k, OLD)
    k.acknowledged(write)
    assert look(k, OLD)
    assert look(k, NEW) is None


def test_a_write_without_an_answer_may_happen_late_but_once():
    k = Shared("k")
    wrote(k, OLD)
    k.begin_write(NEW)
    third = Value(5, 5)
    wrote(k, third)
    assert look(k, OLD)
    assert look(k, third) is None
    assert look(k, NEW) is None
    assert look(k, third)
    wrote(k, OLD)
    assert look(k, NEW)


def test_a_deleted_value_does_not_come_back_however_many_deletes_there_were():
    k = Shared("k")
    wrote(k, OLD)
    open_deletes = [k.begin_write(ABSENT), k.begin_write(ABSENT)]
    assert look(k, OLD) is None
    assert look(k, ABSENT) is None
    assert look(k, OLD)
    k.acknowledged(open_deletes[0])
    assert look(k, ABSENT) is None


def test_a_refused_write_never_happens():
    k = Shared("k")
    k.refused(k.begin_write(NEW))
    assert look(k, NEW)


def test_a_read_that_began_early_may_see_what_was_there_then():
    k = Shared("k")
    wrote(k, OLD)
    early, late = k.begin_read(), k.begin_read()
    wrote(k, NEW)
    assert look(k, NEW) is None
    assert k.seen(OLD.bytes(), early) is None
    assert k.seen(NEW.bytes(), late) is None
    assert k.possible(k.begin_read()) == [NEW]


class Register:
    """A register with concurrent callers whose writes happen at a moment that is drawn."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.key, self.value = Shared("k"), ABSENT
        self.writes, self.reads = [], []

    def step(self):
        """Something begins, happens, or ends."""
        return self.draw.choice([self._write, self._read, self._happen, self._look, self._end, self._end])()

    def _write(self):
        value = ABSENT if self.draw.random() < 0.3 else Value(8, self.draw.getrandbits(60))
        self.writes.append([self.key.begin_write(value), False])

    def _happen(self):
        waiting = [write for write in self.writes if not write[1]]
        if waiting:
            write = self.draw.choice(waiting)
            write[1] = True
            self.value = write[0].value

    def _read(self):
        self.reads.append([self.key.begin_read(), self.value])

    def _look(self):
        """What is read is the value at any moment of the read."""
        for read in self.reads:
            if self.draw.random() < 0.5:
                read[1] = self.value

    def _end(self):
        if self.reads:
            began, value = self.reads.pop(self.draw.randrange(len(self.reads)))
            if complaint := self.key.seen(value and value.bytes(), began):
                return complaint
        done = [write for write in self.writes if write[1]]
        if done and self.draw.random() < 0.7:
            # Others stay without an answer.
            write = self.draw.choice(done)
            self.writes.remove(write)
            if self.draw.random() < 0.8:
                self.key.acknowledged(write[0])
        return None


@pytest.mark.parametrize("seed", range(20))
def test_a_right_register_is_never_complained_about(seed):
    register = Register(seed)
    for _ in range(250):
        assert register.step() is None


@pytest.mark.parametrize("seed", range(20))
def test_an_acknowledged_write_that_is_lost_is_always_noticed(seed):
    register = Register(seed)
    for _ in range(100):
        assert register.step() is None
    # Whatever else is open: these two were written one after the other, so the first is gone.
    gone, last = Value(9, seed), Value(10, seed)
    wrote(register.key, gone)
    wrote(register.key, last)
    assert look(register.key, gone)
    assert look(register.key, last) is None

"""The checker itself must notice every kind of loss."""

from record import ABSENT, Key, Value

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

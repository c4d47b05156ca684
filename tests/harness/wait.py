"""Waits for a value, never for a time."""

import time

SECONDS_MAX = 90


def until(attempt):
    """Asks again and again until the answer is true, and returns it."""
    deadline = time.monotonic() + SECONDS_MAX
    while not (answer := attempt()):
        assert time.monotonic() < deadline, f"still {answer!r} after {SECONDS_MAX} s"
        time.sleep(0.1)
    return answer

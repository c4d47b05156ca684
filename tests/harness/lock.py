"""The machine-wide lock of tests that start processes.

Two test runs on one machine would starve each other's elections and syncs; the second waits for the first. Other
test programs of the house take the same lock: an exclusive `flock` on this file.
"""

import fcntl
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = Path(tempfile.gettempdir()) / "skerry-process-tests.lock"


@contextmanager
def process_tests():
    """Holds the lock; says so if it has to wait."""
    file = _open()
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waits for another test run to release {LOCK_FILE}", file=sys.__stderr__, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _open():
    # Opened for reading first: another user's file in a sticky folder may not be opened for creation.
    try:
        return os.open(LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        file = os.open(LOCK_FILE, os.O_RDONLY | os.O_CREAT, 0o666)
        os.fchmod(file, 0o666)
        return file

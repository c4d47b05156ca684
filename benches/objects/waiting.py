"""Waiting for a value, with a deadline; ending what was started."""

import ctypes
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1


def until(what, attempt, seconds, pause=0.1):
    """Tries until `attempt` returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        value = attempt()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {seconds} s")
        time.sleep(pause)


def stop_with_parent():
    """For `preexec_fn`: when this program dies, the kernel asks the child to stop."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end(processes, seconds=60):
    """Asks our own children to stop; kills those that don't, and returns how many that were."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    killed = 0
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    return killed

"""The machine that is measured on: what it is, what its disk costs right now, what processes use of it."""

import os
import platform
import statistics
import time
from pathlib import Path

MIB = 1 << 20
APPENDS = 200
APPEND_BYTES = 4 << 10
SEQUENTIAL_BYTES = 256 * MIB
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def describe(folder):
    """What a reader needs to know to compare figures."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": filesystem(folder),
    }


def sentence(facts):
    """The same for people."""
    memory = facts["memory_bytes"] / (1 << 30)
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {memory:.0f} GiB of memory, "
        f"{facts['kernel']}, {facts['filesystem']}"
    )


def filesystem(folder):
    """The type of the file system that holds `folder`."""
    folder, best = os.path.realpath(folder), ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4].encode().decode("unicode_escape")
        inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, right.split()[0])
    return best[1]


def disk_cost(folder):
    """What the disk costs at this moment: a small durable append, and durable bytes one after the other."""
    append_s = _appends(Path(folder) / "probe-appends")
    mib_per_s = _sequential(Path(folder) / "probe-sequential")
    return {"append_p50_ms": append_s * 1000, "durable_mib_per_s": mib_per_s}


def disk_sentence(cost):
    """The same for people."""
    return (
        f"4 KiB append + fdatasync {cost['append_p50_ms']:.2f} ms (p50 of {APPENDS}), "
        f"{SEQUENTIAL_BYTES // MIB} MiB + fsync {cost['durable_mib_per_s']:.0f} MiB/s"
    )


def cpu_seconds(pids):
    """The processor time that processes have used since they started."""
    return sum(_ticks(pid) for pid in pids) / TICKS_PER_SECOND


def memory(pid):
    """Bytes of a process: resident now (`rss`), the most (`peak`), and what of it is no file (`anonymous`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    names = {"rss": "VmRSS", "peak": "VmHWM", "anonymous": "RssAnon"}
    return {name: int(fields[field].split()[0]) << 10 for name, field in names.items()}


def reset_peak(pid):
    """Lets `peak` of a process begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _appends(path):
    block, times = os.urandom(APPEND_BYTES), []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(APPENDS):
            begin = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            times.append(time.perf_counter() - begin)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(times)


def _sequential(path):
    block = os.urandom(MIB)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        begin = time.perf_counter()
        for _ in range(SEQUENTIAL_BYTES // MIB):
            _write_all(file, block)
        os.fsync(file)
        seconds = time.perf_counter() - begin
    finally:
        os.close(file)
        path.unlink()
    return SEQUENTIAL_BYTES / MIB / seconds


def _write_all(file, block):
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(file, rest) :]

"""One run of the load tool against a service that runs, and what the service's processes used for it."""

import json
import os
import subprocess
from dataclasses import dataclass, field

import machine
from waiting import stop_with_parent

#: Warming up, preparing and cleaning up may take this much longer than the measured time.
REST_SECONDS_MAX = 1800


@dataclass
class Measured:
    """What came of a run. With `failed`, nothing else counts.

    Processor time is that of the whole run, with preparing and cleaning up; memory is the peak of the largest process.
    """

    ops_per_s: float = 0.0
    mib_per_s: float = 0.0
    operations: list = field(default_factory=list)
    errors: dict = field(default_factory=dict)
    cpu_s: float = 0.0
    rss_peak: int = 0
    failed: str = ""

    def figure(self, unit):
        """The number that is compared."""
        return self.mib_per_s if unit == "MiB" else self.ops_per_s

    def p99_ms(self):
        """Of the slowest operation."""
        return max((one["p99_ms"] for one in self.operations), default=0.0)


def run(binary, system, bucket, workload, seconds):
    """Loads all nodes of a system in turn."""
    pids = system.pids()
    for pid in pids:
        machine.reset_peak(pid)
    before = machine.cpu_seconds(pids)
    seconds *= workload.times
    command = _command(binary, system, bucket, workload, seconds)
    environment = {**os.environ, **system.keys}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=seconds + REST_SECONDS_MAX,
        preexec_fn=stop_with_parent,
    )
    after = system.pids()
    if after != pids:
        return Measured(failed=f"nodes ended under load: processes were {pids}, are {after}")
    cpu_s = machine.cpu_seconds(pids) - before
    rss_peak = max(machine.memory(pid)["peak"] for pid in pids)
    return _measured(done, cpu_s, rss_peak)


def _command(binary, system, bucket, workload, seconds):
    first, *others = system.endpoints
    command = [str(binary), "bench", "object", "--output", "json", "--bucket", bucket]
    command += ["--mode", workload.mode, "--size", workload.size, "--concurrency", str(workload.clients)]
    command += ["--objects", str(workload.objects)]
    command += ["--duration", f"{seconds}s", "--warm-up", f"{workload.warm_up}s", "--endpoint", first]
    for other in others:
        command += ["--also", other]
    return command


def _measured(done, cpu_s, rss_peak):
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        return Measured(failed=done.stderr.strip() or f"exit code {done.returncode}")
    operations, errors = report["operations"], {}
    for operation in operations:
        for code, count in operation["errors"].items():
            errors[code] = errors.get(code, 0) + count
    result = Measured(
        ops_per_s=sum(one["ops_per_second"] for one in operations),
        mib_per_s=sum(one["mib_per_second"] for one in operations),
        operations=operations,
        errors=errors,
        cpu_s=cpu_s,
        rss_peak=rss_peak,
    )
    if done.returncode != 0:
        result.failed = done.stderr.strip() or f"exit code {done.returncode}"
    return result

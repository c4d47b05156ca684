"""kill -9 of one, two or all processes at random points under load: nothing that was acknowledged is lost.

After each crash the site must become ready again by itself (or is started again, when the parent was killed too). Then
every key is read byte for byte through a random node, and every node's lists must agree with the record. All the while, blocks
that no object names any more are removed: soon, so that it happens between two crashes.
"""

import os
import random
import time
import uuid

import pytest

from harness import command
from harness import s3 as clients
from harness.site import READY_SECONDS_MAX, Site
from harness.wait import until
from load import Clients, Gate, NotSent, Unanswered, Worker, attempt, read, read_shared, shared_keys
from record import ABSENT

WORKERS = 6
CYCLES = 100 if os.environ.get("SKERRY_TEST_LONG") else 5
LOAD_SECONDS = (1.0, 4.0)
SOON = {"SKERRY_OBJECTS_COLLECT_AFTER": "1s"}


@pytest.fixture(params=[3, 1], ids=["three-nodes", "one-node"])
def crash_site(request, binary, process_lock, tmp_path):
    site = Site(binary, tmp_path / "data", request.param)
    site.variables = command.variables(SOON)
    try:
        yield site.start()
    finally:
        code = site.stop()
    assert code == 0, f"`skerry up` ended with {code}\n{site.tail()}"


def test_nothing_acknowledged_is_lost(crash_site):
    seed = int(os.environ.get("SKERRY_TEST_SEED") or random.SystemRandom().getrandbits(48))
    # Threads and kernels keep the run from being the same twice; the seed repeats its plan.
    print(f"\nseed {seed}: replay with SKERRY_TEST_SEED={seed} cargo xtask test --only crash")
    run = Run(crash_site, seed)
    try:
        for cycle in range(CYCLES):
            run.cycle(cycle)
        run.collect()
    finally:
        run.end()


class Run:
    """One site, its load, and the crashes."""

    def __init__(self, site, seed):
        self.site, self.draw = site, random.Random(seed)
        self.bucket = f"crash-{uuid.uuid4().hex[:12]}"
        environment = site.environment()
        clients.of(environment).create_bucket(Bucket=self.bucket)
        self.clients = Clients(environment, site.endpoints())
        self.gate = Gate(WORKERS)
        self.shared = shared_keys()
        plan = (seed, self.bucket, self.clients, self.gate, self.shared)
        self.workers = [Worker(number, *plan) for number in range(WORKERS)]
        for worker in self.workers:
            worker.start()

    def cycle(self, number):
        """Load, crash, load while it recovers, stand still, check."""
        before = self._acknowledged()
        time.sleep(self.draw.uniform(*LOAD_SECONDS))
        what, victims = self._crash()
        self.site.wait_ready(without=victims)
        time.sleep(self.draw.uniform(*LOAD_SECONDS) / 4)
        self.gate.close()
        self._no_complaints()
        done = self._acknowledged() - before
        assert done > 0, f"cycle {number}: nothing was acknowledged\n{self.site.tail()}"
        keys = self._check()
        print(f"cycle {number}: {what}; {done} operations acknowledged, {keys} keys as they must be", flush=True)
        self.gate.open()

    def collect(self):
        """The load goes on until blocks were removed; nothing that is named was among them."""
        collected = until(self._collected)
        self.gate.close()
        self._no_complaints()
        keys = self._check()
        print(f"blocks of {collected} segments removed, {keys} keys as they must be", flush=True)
        self.gate.open()

    def _collected(self):
        """Segments whose blocks were removed since the last start of each node."""
        jobs = [job for node in self.site.status()["nodes"] for job in node["jobs"]]
        return sum(job["done_total"] for job in jobs if job["name"] == "collect")

    def end(self):
        self.gate.end()
        for worker in self.workers:
            worker.join(60)
        counts = {}
        for worker in self.workers:
            for name, count in worker.counts.items():
                counts[name] = counts.get(name, 0) + count
        print("operations:", ", ".join(f"{name} {count}" for name, count in sorted(counts.items())), flush=True)
        self._no_complaints()

    def _crash(self):
        """Kills some nodes, sometimes together with their parent; returns a description and the process ids."""
        pids = self.site.node_pids()
        kinds = ["one", "one", "two", "all", "all and the parent"] if len(pids) > 2 else ["all", "all and the parent"]
        kind = self.draw.choice(kinds)
        victims = self.draw.sample(pids, {"one": 1, "two": 2}.get(kind, len(pids)))
        parent = kind.endswith("parent") or self.site.process.pid in victims
        if parent:
            # First the parent, or it would start what is about to be killed again.
            self.site.process.kill()
            self.site.process.wait()
        self.site.kill(victims)
        if parent:
            self._until_gone(victims)
            self.site.start()
        return f"killed {kind} of {len(pids)}", victims

    def _until_gone(self, pids):
        deadline = time.monotonic() + READY_SECONDS_MAX
        while any(_is_alive(pid) for pid in pids):
            assert time.monotonic() < deadline, f"of {pids} some live on after kill -9"
            time.sleep(0.01)

    def _acknowledged(self):
        quiet = ("unanswered", "not sent")
        return sum(n for worker in self.workers for name, n in list(worker.counts.items()) if name not in quiet)

    def _no_complaints(self):
        complaints = [complaint for worker in self.workers for complaint in worker.complaints]
        assert not complaints, "\n".join(complaints) + "\n" + self.site.tail()

    def _check(self):
        """Every key by its bytes, every list by the record; returns how many keys were checked."""
        keys = {key.name: key for worker in self.workers for key in worker.keys + worker.retired}
        for key in keys.values():
            complaint = key.seen(self._read(key.name))
            assert not complaint, complaint
        for key in self.shared:
            complaint = read_shared(key, lambda: self._read(key.name))
            assert not complaint, complaint
        for s3 in self.clients.all():
            self._check_list(s3, keys)
            self._check_buckets(s3)
        return len(keys) + len(self.shared)

    def _check_list(self, s3, keys):
        began = [key.begin_read() for key in self.shared]
        listed = self._list(s3)
        for key in keys.values():
            if key.name in listed:
                assert key.may_be_listed(), f"{key.name} is listed but was deleted"
                assert listed.pop(key.name) in key.sizes(), f"{key.name} is listed with another size"
            else:
                assert not key.must_be_listed(), f"{key.name} is not listed"
        for key, tick in zip(self.shared, began):
            sizes = [ABSENT if value is ABSENT else value.size for value in key.possible(tick)]
            size = listed.pop(key.name, ABSENT)
            assert size in sizes, f"{key.name} is listed with {size}, allowed are {sizes}"
        assert not listed, f"listed, but nobody wrote them: {sorted(listed)}"

    def _check_buckets(self, s3):
        """Nodes may know a bucket's end a little later; in the end they all must agree with the record."""
        buckets = [bucket for worker in self.workers for bucket in worker.buckets]
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            listed = {entry["Name"] for entry in self._patiently(lambda: attempt(s3.list_buckets))["Buckets"]}
            lost = [bucket.name for bucket in buckets if bucket.must_be_listed() and bucket.name not in listed]
            back = [bucket.name for bucket in buckets if not bucket.may_be_listed() and bucket.name in listed]
            if not lost and not back:
                return
            assert time.monotonic() < deadline, f"buckets that are not listed: {lost}; that were deleted: {back}"
            time.sleep(0.1)

    def _read(self, name):
        return self._patiently(lambda: read(self.clients.any(self.draw), self.bucket, name))

    def _list(self, s3):
        def pages():
            found, token = {}, {}
            while True:
                size = self.draw.choice([7, 50, 1000])
                page = attempt(s3.list_objects_v2, Bucket=self.bucket, MaxKeys=size, **token)
                found |= {entry["Key"]: entry["Size"] for entry in page.get("Contents", [])}
                if not page["IsTruncated"]:
                    return found
                token = {"ContinuationToken": page["NextContinuationToken"]}

        return self._patiently(pages)

    def _patiently(self, call):
        """Reads again for a while where the answer says that nobody could tell; a wrong answer is never asked again."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            try:
                return call()
            except (NotSent, Unanswered) as error:
                assert time.monotonic() < deadline, f"no answer in {READY_SECONDS_MAX} s: {error}\n{self.site.tail()}"
                time.sleep(0.1)


def _is_alive(pid):
    """Whether the process runs; one that only waits for its parent to look does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

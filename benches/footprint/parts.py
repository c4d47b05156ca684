"""What is measured, part by part: each starts a site of its own and returns figures. Memory and processor time are
those of the largest node."""

import math
import os
import random
import shutil
import statistics
import subprocess
import time
from contextlib import contextmanager

import load
import machine
from figures import Figure
from harness.site import Site
from programs import say
from s3 import S3
from sites import GroupedSite, TimedSite
from skerry import BUCKET, Skerry
from tables import count
from waiting import stop_with_parent
from workloads import Workload

NODES = 3
MB = 1e6
MIB = 1 << 20

IDLE_RSS_MB_MAX = 60
IDLE_CPU_PERCENT_MAX = 2
IDLE_GROUPS = 256
MIXED_RSS_MB_MAX = 200
MIXED = Workload("mixed", "mixed of 256 KiB, 16 clients", "mixed", "mixed", "256KiB", 16, 0, objects=400)
STREAM_MIB_MAX = 64
RESTART_SECONDS_MAX = 3
RESTARTS = 3
PAGE_KEYS = 1000
PAGE_RATIO_MAX = 1.5
#: Objects are loaded in batches of this many; one batch is what longer listings are compared with.
BATCH = 10_000
OBJECT_BYTES = 100
BATCH_SECONDS_MAX = 1800


@contextmanager
def running(system, folder):
    """A started system; stopped, and what it stored removed, at the end."""
    try:
        system.start()
        yield system
    except Exception:
        say(system.tail())
        raise
    finally:
        system.stop()
        shutil.rmtree(folder)


def fresh(folder, part):
    """An empty folder for a part."""
    folder = folder / part
    folder.mkdir()
    return folder


def idle(options, folder):
    """Memory and processor time of nodes that nobody asks for anything: as `skerry up` makes them; with many groups."""
    figures = []
    for groups in (None, IDLE_GROUPS):
        place = fresh(folder, "idle")
        if groups is None:
            name, site = "idle, groups as by default", Site(options.skerry, place / "data", NODES)
        else:
            name, site = f"idle, {groups} groups", GroupedSite(options.skerry, place / "data", NODES, groups)
        say(name)
        with running(Skerry(site), place) as system:
            rss, cpu = _idle(system.pids(), options.idle)
        rss_max, cpu_max = (IDLE_RSS_MB_MAX, None) if groups is None else (None, IDLE_CPU_PERCENT_MAX)
        figures.append(Figure("idle", f"{name}: RSS after {options.idle} s", rss / MB, "MB", rss_max))
        title = f"{name}: CPU over {options.idle} s, of one core"
        figures.append(Figure("idle", title, cpu, "%", cpu_max, inclusive=False))
    return figures


def mixed(options, folder):
    """Memory under load."""
    say(f"{MIXED.title}, {options.mixed} s")
    place = fresh(folder, "mixed")
    with running(Skerry(Site(options.skerry, place / "data", NODES)), place) as system:
        measured = load.run(options.skerry, system, BUCKET, MIXED, options.mixed)
        after = max(machine.memory(pid)["rss"] for pid in system.pids())
    if measured.failed:
        raise RuntimeError(f"the load failed: {measured.failed}")
    return [
        Figure("mixed", f"{MIXED.title}: peak RSS", measured.rss_peak / MB, "MB", MIXED_RSS_MB_MAX),
        Figure("mixed", f"{MIXED.title}: RSS just after", after / MB, "MB"),
        Figure("mixed", f"{MIXED.title}: requests", measured.ops_per_s, "/s"),
        Figure("mixed", f"{MIXED.title}: failed requests", sum(measured.errors.values()), ""),
    ]


def stream(options, folder):
    """What one large object adds to the memory of a node that had done nothing before."""
    say(f"one object of {options.stream} MiB")
    place = fresh(folder, "stream")
    figures = []
    with running(Skerry(Site(options.skerry, place / "data", NODES)), place) as system:
        client = S3(system.endpoints[0], system.keys)
        pids = system.pids()
        before = {pid: machine.memory(pid)["rss"] for pid in pids}
        (seconds, checksum), added = _added(pids, before, lambda: client.put(BUCKET, "large", options.stream * MIB))
        figures += _stream_figures("PUT", options.stream, added, seconds)
        (seconds, size, got), added = _added(pids, before, lambda: client.get(BUCKET, "large"))
        figures += _stream_figures("GET", options.stream, added, seconds)
        client.close()
    if (size, got) != (options.stream * MIB, checksum):
        raise RuntimeError(f"read {size} bytes with checksum {got:08x}, had written others ({checksum:08x})")
    return figures


def keys(options, folder):
    """Many small objects: pages of a listing, memory, and starting again."""
    place = fresh(folder, "keys")
    site = TimedSite(options.skerry, place / "data", NODES)
    figures = []
    with running(Skerry(site), place) as system:
        _load(options, system, "few", 1, place)
        few = _pages(system, "few", BATCH, options.pages)
        _load(options, system, "many", options.objects // BATCH, place)
        many = _pages(system, "many", options.objects, options.pages)
        few_later = _pages(system, "few", BATCH, options.pages)
        figures += _page_figures(options, few, many, few_later)
        rss = max(machine.memory(pid)["rss"] for pid in system.pids())
        figures.append(Figure("keys", f"RSS with {options.objects:,} objects", rss / MB, "MB"))
        figures += _restarts(options, site, system)
    return figures


PARTS = {"idle": idle, "mixed": mixed, "stream": stream, "keys": keys}


def _idle(pids, seconds):
    """Resident bytes after so many seconds without requests, and percent of a core over as many more."""
    time.sleep(seconds)
    rss = max(machine.memory(pid)["rss"] for pid in pids)
    before, begin = {pid: machine.cpu_seconds([pid]) for pid in pids}, time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begin
    return rss, max(machine.cpu_seconds([pid]) - before[pid] for pid in pids) / passed * 100


def _added(pids, before, act):
    """What an act returns, and by how much the peak of a node was above what it had before."""
    for pid in pids:
        machine.reset_peak(pid)
    done = act()
    return done, max(machine.memory(pid)["peak"] - before[pid] for pid in pids)


def _stream_figures(verb, size, added, seconds):
    name = f"{verb} of one object of {size:,} MiB"
    return [
        Figure("stream", f"{name} adds at most", added / MIB, "MiB", STREAM_MIB_MAX, inclusive=False),
        Figure("stream", f"{name}: speed", size / seconds, "MiB/s"),
    ]


def _load(options, system, bucket, batches, place):
    """Makes a bucket with so many batches of objects, each below a prefix of its own."""
    system.site.run("bucket", "mb", bucket)
    files = place / "files"
    files.mkdir(exist_ok=True)
    for number in range(BATCH):
        if not (path := files / f"{number:05d}").exists():
            path.write_bytes(os.urandom(OBJECT_BYTES))
    begin = time.monotonic()
    for batch in range(batches):
        _copy(options, system, files, f"s3://{bucket}/{batch:04d}/", batch)
        if batch % 10 == 9 or batch == batches - 1:
            done = (batch + 1) * BATCH
            rate = done / (time.monotonic() - begin)
            say(f"  {bucket}: {done:,} of {batches * BATCH:,} objects, {count(rate)}/s")


def _copy(options, system, files, target, batch):
    endpoint = system.endpoints[batch % len(system.endpoints)]
    words = ["object", "cp", "--recursive", "--concurrency", "64", "--endpoint", endpoint, str(files), target]
    done = subprocess.run(
        [str(options.skerry), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **system.keys},
        timeout=BATCH_SECONDS_MAX,
        preexec_fn=stop_with_parent,
    )
    if done.returncode != 0:
        raise RuntimeError(f"can't load objects: {done.stderr.strip()}")


def _pages(system, bucket, keys, pages):
    """The times of pages that begin anywhere in a bucket, asked of all nodes in turn, in milliseconds."""
    clients = [S3(endpoint, system.keys) for endpoint in system.endpoints]
    draw, times = random.Random(keys), []
    for turn in range(-len(clients), pages):
        after = _key(draw.randrange(keys - PAGE_KEYS))
        seconds, found = clients[turn % len(clients)].page(bucket, after, PAGE_KEYS)
        if found != PAGE_KEYS:
            raise RuntimeError(f"a page of {bucket} after {after} has {found} keys, not {PAGE_KEYS}")
        # The first of each node only opens the connection.
        if turn >= 0:
            times.append(seconds * 1000)
    for client in clients:
        client.close()
    return times


def _key(index):
    return f"{index // BATCH:04d}/{index % BATCH:05d}"


def _page_figures(options, few, many, few_later):
    p99 = {"few": _p99(few), "many": _p99(many)}
    name, p50 = f"LIST of {PAGE_KEYS:,} keys, p99", f"LIST of {PAGE_KEYS:,} keys, p50"
    ratio = p99["many"] / p99["few"]
    return [
        Figure("keys", f"{name}: {BATCH:,} keys in the site", p99["few"], "ms"),
        Figure("keys", f"{name}: in a bucket of {options.objects:,}", p99["many"], "ms"),
        Figure("keys", f"{name}: the bucket of {BATCH:,} again, beside it", _p99(few_later), "ms"),
        Figure("keys", f"{name}: {options.objects:,} keys to {BATCH:,}", ratio, "times", PAGE_RATIO_MAX),
        Figure("keys", f"{p50}: {BATCH:,} keys in the site", statistics.median(few), "ms"),
        Figure("keys", f"{p50}: in a bucket of {options.objects:,}", statistics.median(many), "ms"),
    ]


def _p99(times):
    return sorted(times)[math.ceil(len(times) * 0.99) - 1]


def _restarts(options, site, system):
    """From the start of the program to the first `skerry status` with exit code 0: after stops, and after a crash."""
    say("starting again")
    times = []
    for _ in range(RESTARTS):
        site.stop()
        site.start()
        times.append(site.seconds_to_ready)
    site.crash()
    site.start()
    system.endpoints = site.endpoints()
    _pages(system, "many", options.objects, 1)
    name = f"start with {options.objects:,} objects until ready"
    return [
        Figure("keys", f"{name}: slowest of {RESTARTS}", max(times), "s", RESTART_SECONDS_MAX, inclusive=False),
        Figure("keys", f"{name}: fastest", min(times), "s"),
        Figure("keys", f"{name}: after kill -9", site.seconds_to_ready, "s"),
    ]

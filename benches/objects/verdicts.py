"""From measurements to a table: medians, ratios of runs that were next to each other, and whether bars were met."""

import statistics
from dataclasses import asdict, dataclass

import tables
from workloads import COPIES, GET_OF_STAT_MIN, PUT_OF_DISK_MIN, WORKLOADS

SYSTEMS = ("skerry", "garage")


@dataclass
class Turn:
    """One stage of one round: what the disk cost just before, by system; what was measured, by workload and system."""

    round: int
    stage: str
    order: list
    disk: dict
    measured: dict

    def get(self, workload, system):
        """A measurement that counts."""
        found = self.measured.get(workload, {}).get(system)
        return None if found is None or found.failed else found


@dataclass
class Verdict:
    """One comparison: a value per round, and the least that their median should be."""

    name: str
    skerry: str
    garage: str
    ratios: list
    bar: float

    def met(self):
        """None without a value."""
        return statistics.median(self.ratios) >= self.bar if self.ratios else None

    def row(self):
        """For a table."""
        return [self.name, self.skerry, self.garage, _spread(self.ratios), f"{self.bar:g}", tables.yes(self.met())]


HEAD = ["workload", "Skerry", "Garage", "ratio [min-max]", "bar", "met"]
COSTS_HEAD = [
    "workload",
    "p99 ms Skerry",
    "Garage",
    "CPU s Skerry",
    "Garage",
    "peak RSS Skerry",
    "Garage",
    "errors Skerry",
    "Garage",
]


def verdicts(turns):
    """Everything that has a bar."""
    found = []
    for workload in WORKLOADS:
        if not any(workload.name in turn.measured for turn in turns):
            continue
        found.append(_beside_peer(workload, turns))
        if workload.name == "get-4k":
            found.append(_of_own(turns, "4 KiB GET / own STAT", "get-4k", "stat", GET_OF_STAT_MIN))
        if workload.name == "put-10m":
            found.append(_of_disk(turns))
    return found


def costs(turns):
    """What the processes used, as rows: medians over rounds; errors are added up."""
    rows = []
    for workload in WORKLOADS:
        if not any(workload.name in turn.measured for turn in turns):
            continue
        row = [workload.title]
        for show in (_p99, _cpu, _memory):
            row += [show(_all(turns, workload.name, system)) for system in SYSTEMS]
        rows.append(row + [errors(turns, workload.name, system) for system in SYSTEMS])
    return rows


def errors(turns, workload, system):
    """Failed requests by code, and failed runs."""
    total = {}
    for turn in turns:
        if (one := turn.measured.get(workload, {}).get(system)) is None:
            continue
        for code, count in one.errors.items():
            total[code] = total.get(code, 0) + count
        if one.failed:
            total["failed runs"] = total.get("failed runs", 0) + 1
    return " ".join(f"{code}={count}" for code, count in sorted(total.items())) or "0"


def failures(turns):
    """Why runs failed, in words."""
    return [
        f"round {turn.round}, {workload}, {system}: {one.failed}"
        for turn in turns
        for workload, by_system in turn.measured.items()
        for system, one in by_system.items()
        if one.failed
    ]


def disk(turns):
    """The disk's costs over the whole run: medians."""
    costs = [cost for turn in turns for cost in turn.disk.values()]
    return {name: statistics.median(cost[name] for cost in costs) for name in costs[0]}


def as_json(turns):
    """Everything, for programs."""
    return [asdict(turn) for turn in turns]


def _all(turns, workload, system):
    found = (turn.get(workload, system) for turn in turns)
    return [one for one in found if one is not None]


def _pairs(turns, one, other):
    """Measurements of the same turn, each given as workload and system."""
    both = ((turn.get(*one), turn.get(*other)) for turn in turns)
    return [(a, b) for a, b in both if a is not None and b is not None]


def _beside_peer(workload, turns):
    def figure(one):
        return one.figure(workload.unit)

    pairs = _pairs(turns, (workload.name, "skerry"), (workload.name, "garage"))
    ratios = [figure(ours) / figure(theirs) for ours, theirs in pairs if figure(theirs) > 0]
    shown = [_median([figure(one) for one in _all(turns, workload.name, system)], workload.unit) for system in SYSTEMS]
    return Verdict(workload.title, *shown, ratios, workload.bar)


def _of_own(turns, name, one, other, bar):
    ratios = {}
    for system in SYSTEMS:
        pairs = _pairs(turns, (one, system), (other, system))
        ratios[system] = [a.ops_per_s / b.ops_per_s for a, b in pairs if b.ops_per_s > 0]
    shown = [tables.count(statistics.median(ratios[system])) if ratios[system] else "-" for system in SYSTEMS]
    return Verdict(name, *shown, ratios["skerry"], bar)


def _of_disk(turns):
    shares = {}
    for system in SYSTEMS:
        measured = [(turn, one) for turn in turns if (one := turn.get("put-10m", system)) is not None]
        mosts = [turn.disk[system]["durable_mib_per_s"] / COPIES for turn, _ in measured]
        shares[system] = [one.mib_per_s / most for (_, one), most in zip(measured, mosts)]
    shown = [tables.count(statistics.median(shares[system])) if shares[system] else "-" for system in SYSTEMS]
    return Verdict("10 MiB PUT / (durable disk / 3)", *shown, shares["skerry"], PUT_OF_DISK_MIN)


def _median(values, unit):
    if not values:
        return "-"
    return tables.count(statistics.median(values)) + ("/s" if unit == "ops" else " MiB/s")


def _spread(values):
    if not values:
        return "-"
    low, high = tables.count(min(values)), tables.count(max(values))
    return f"{tables.count(statistics.median(values))} [{low}-{high}]"


def _p99(measured):
    return tables.count(statistics.median(one.p99_ms() for one in measured)) if measured else "-"


def _cpu(measured):
    return tables.count(statistics.median(one.cpu_s for one in measured)) if measured else "-"


def _memory(measured):
    return tables.megabytes(max(one.rss_peak for one in measured)) if measured else "-"

"""What is sent, and how much faster than the peer we want to be."""

from dataclasses import dataclass

#: Each stage has fresh nodes: what one leaves to be cleaned up later does not weigh on the next.
STAGES = ("small", "large", "mixed")


@dataclass(frozen=True)
class Workload:
    """One run of `skerry bench object`. `bar` is the least ratio to the peer.

    The tool counts requests that begin after the warm-up and end in time. Where one takes seconds, the measured time is
    several times (`times`) the usual one and there is no warm-up, so that what is cut off at both ends is little.
    """

    name: str
    title: str
    stage: str
    mode: str
    size: str
    clients: int
    bar: float
    unit: str = "ops"
    objects: int = 1000
    times: int = 1
    warm_up: int = 2


WORKLOADS = (
    Workload("put-1k", "1 KiB PUT, 16 clients", "small", "put", "1KiB", 16, 4.0),
    Workload("put-4k", "4 KiB PUT, 32 clients", "small", "put", "4KiB", 32, 8.0),
    Workload("get-4k", "4 KiB GET, 32 clients", "small", "get", "4KiB", 32, 10.0),
    Workload("stat", "4 KiB STAT, 32 clients", "small", "stat", "4KiB", 32, 1.5),
    Workload("list", "LIST of 1,000 keys, 16 clients", "small", "list", "1KiB", 16, 1.5),
    Workload("put-10m", "10 MiB PUT, 8 clients", "large", "put", "10MiB", 8, 1.0, "MiB", times=6, warm_up=0),
    Workload("get-10m", "10 MiB GET, 8 clients", "large", "get", "10MiB", 8, 1.5, "MiB", objects=32),
    Workload("mixed", "mixed of 256 KiB, 16 clients", "mixed", "mixed", "256KiB", 16, 3.0, objects=400),
)

#: A small GET reads its bytes from the metadata: it may cost little more than a STAT.
GET_OF_STAT_MIN = 0.7
#: Three copies on one disk: a PUT of large objects can't be faster than a third of what the disk makes durable.
COPIES = 3
PUT_OF_DISK_MIN = 0.8

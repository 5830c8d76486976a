"""Time two ways to the same result in turn, and measure the limits that the machine sets to both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

MIB = 2**20


def synchronise(device: torch.device) -> None:
    """Wait for a GPU to finish; on the CPU there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 1) -> float:
    """Wall seconds of one call of `work`, the mean over `repeats` calls."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


class Way(NamedTuple):
    """One way to do the work: the function, how often to call it a round, and the part of the work that it does."""

    work: Callable[[], object]
    repeats: int = 1
    share: float = 1.0  # a peer that does a third of the work has 1/3 here, and its time is multiplied by 3
    rounds: int | None = None  # fewer for a slow peer; None for all


def in_turn(ways: dict[str, Way], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds for the whole work, by way, one after the other in each round, so that all meet the same machine."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            if way.rounds is None or turn < way.rounds:
                found[name].append(seconds(way.work, device, way.repeats) / way.share)
    return found


class Stage(NamedTuple):
    """Work that cannot overlap with the next stage: floating-point operations (two a multiply-add) and bytes moved."""

    name: str
    flops: float
    bytes: float
    dtype: torch.dtype = torch.float32


class Machine(NamedTuple):
    """What the machine does at best, measured: matrix products per dtype in FLOP/s, memory in bytes/s."""

    flops: dict[torch.dtype, float]
    bandwidth: float

    def floor(self, stages: list[Stage]) -> float:
        """Least seconds for the stages one after the other, each bound by the slower of arithmetic and memory."""
        return sum(max(stage.flops / self.flops[stage.dtype], stage.bytes / self.bandwidth) for stage in stages)


def measure_machine(device: torch.device) -> Machine:
    """The best of several products of large square matrices per dtype, and of several copies beyond any cache."""
    size, megabytes = (8192, 2048) if device.type == "cuda" else (2048, 256)
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        out = torch.empty_like(a)
        best = min(seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device) for _ in range(8))
        flops[dtype] = 2 * size**3 / best
    source = torch.ones(megabytes * MIB // 4, device=device)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(8))
    return Machine(flops, 2 * megabytes * MIB / best)


class Row(NamedTuple):
    """A line of results.json."""

    name: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None
    limit_fraction: float
    device: str


def row(name: str, unit: str, times: dict[str, list[float]], peer: str, floor: float, device: str) -> Row:
    """Medians of the rounds; `times` has 'ours' and the peer's name. The limit is `floor` over our median."""
    ours, theirs = statistics.median(times["ours"]), statistics.median(times[peer])
    return Row(name, unit, digits(ours), digits(theirs), peer, digits(theirs / ours), digits(floor / ours), device)


def digits(value: float, places: int = 4) -> float:
    """Rounded to so many significant digits, as no timing has more."""
    return float(f"{value:.{places}g}")

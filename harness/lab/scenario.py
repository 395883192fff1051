# SPDX-License-Identifier: GPL-2.0-only
"""What the model is asked, and what it answers. Pure data.

In: what each stage costs (`StageCosts`, instructions a packet) and what comes to which CPUs
in which mode (`Scenario`). Out: an `Outcome`, plain counts. `harness.lab.pipeline` makes the
one of the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum

from harness.errors import FalconError
from harness.overlay import modes
from harness.overlay.cpus import CpuPlan

# Nothing is counted in so much of a run, as a part of what is: queues fill, loads are known.
WARM_UP = 0.25


class Stage(IntEnum):
    """The work between two queues.

    NIC: the device's poll. GRO: of a split NIC; else it is part of the poll. OUTER: IP, UDP,
    VXLAN decapsulation. BRIDGE: from the VXLAN device to the veth pair. INNER: IP and UDP to the
    socket (without an overlay the only one of the three). APP: what the receiving program's
    CPU does.
    """

    NIC = 0
    GRO = 1
    OUTER = 2
    BRIDGE = 3
    INNER = 4
    APP = 5


@dataclass(frozen=True)
class StageCosts:
    """Instructions a packet costs in each `Stage`, interrupts and queues in them."""

    nic: float
    outer: float
    bridge: float
    inner: float
    app: float
    gro: float = 0.0

    def __post_init__(self) -> None:
        if min(self.stages) < 0 or not self.total:
            raise FalconError("a stage costs nothing or more, and one of them more", str(self))

    @property
    def stages(self) -> tuple[float, ...]:
        """By `Stage`."""
        return tuple(getattr(self, stage.name.lower()) for stage in Stage)

    @property
    def total(self) -> float:
        """All stages together."""
        return sum(self.stages)


@dataclass(frozen=True)
class Cpus:
    """Ids of CPUs: of the ``nics``' queues (a flow's is chosen by RSS), of the ``stages``
    (net.core.falcon_cpus, rps_cpus), and of the containers' ``programs``, in turn.

    One CPU may be in several of them.
    """

    nics: tuple[int, ...]
    stages: tuple[int, ...]
    programs: tuple[int, ...]

    def __post_init__(self) -> None:
        for part in (self.nics, self.stages, self.programs):
            if not part or len(set(part)) < len(part) or min(part) < 0:
                raise FalconError(f"{part} is no set of CPUs", "one or more, and each once")

    @classmethod
    def of(cls, plan: CpuPlan) -> Cpus:
        """Those of a measurement."""
        return cls((plan.nic,), plan.stages, (plan.app,))

    @classmethod
    def apart(cls, nics: int, stages: int, programs: int) -> Cpus:
        """So many CPUs for each, none for two."""
        ids = tuple(range(nics + stages + programs))
        return cls(ids[:nics], ids[nics : nics + stages], ids[nics + stages :])

    @property
    def all(self) -> tuple[int, ...]:
        """Each once, ascending."""
        return tuple(sorted({*self.nics, *self.stages, *self.programs}))

    def role(self, cpu: int) -> str:
        """What a CPU does."""
        roles = {"NIC": self.nics, "stages": self.stages, "program": self.programs}
        return " and ".join(name for name, ids in roles.items() if cpu in ids)


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    ``rate``: packets a second of all ``flows`` together, each an equal part of it; flow i goes
    to container i modulo ``containers``. They come one by one, at random (Poisson) or, if
    ``steady``, evenly. ``ips``: instructions a second that every CPU executes. ``seconds`` are
    looked at. ``seed`` draws flows' hashes and arrivals, the same for every mode.
    ``interval``: seconds between two samples of the load, net.core.falcon_load_interval.
    """

    mode: str
    rate: float
    cpus: Cpus
    ips: float
    flows: int = 1
    containers: int = 1
    seconds: float = 1.0
    steady: bool = False
    seed: int = 1
    interval: float = 0.05

    def __post_init__(self) -> None:
        modes.named(self.mode)
        if min(self.rate, self.ips, self.seconds, self.interval) <= 0:
            raise FalconError("rates, speeds and times must be above 0")
        if min(self.flows, self.containers) < 1:
            raise FalconError("nothing would come", "it takes a flow, and a container")

    @property
    def warm_up(self) -> float:
        """Seconds before those that are looked at."""
        return WARM_UP * self.seconds


@dataclass
class Outcome:
    """Counts. Of the whole run: ``sent``, ``delivered``, ``dropped`` by kind of queue,
    ``in_flight`` at the end, ``out_of_order`` (delivered after a later one of its flow), and
    Falcon's ``events``. Of the time that is looked at: ``sent_then``, ``latencies`` of what was
    delivered, in seconds from the wire to the program, and ``busy`` seconds by CPU.
    """

    sent: int = 0
    delivered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    out_of_order: int = 0
    events: Counter[str] = field(default_factory=Counter)
    sent_then: int = 0
    latencies: list[float] = field(default_factory=list)
    busy: dict[int, float] = field(default_factory=dict)

    @property
    def busiest(self) -> int:
        """The CPU that had most to do."""
        return max(self.busy, key=lambda cpu: self.busy[cpu])

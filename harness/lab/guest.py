# SPDX-License-Identifier: GPL-2.0-only
"""The receiving host of a measurement: does what it is told, a line of JSON at a time.

In: a `Plan`, and on a real host what of it is used (`answers`); then commands. Out: an answer
to each (`harness.lab.dialogue`). It runs on the machine under test, and while packets come
it sleeps::

    the measuring machine (`remote`)       this program
    {"do": "mode", "name": ..., "load": ...} -->
                                      <--  {"number": 0}
    packets                           ==>  the receivers
    {"do": "drain", "packets": 5000}  -->
                                      <--  {"came": {"received": 5000, ...}, ..., "number": 1}

A measurement by time asks for ``counters`` instead, at the start and the end of its window.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from statistics import mean
from typing import Any

from harness.lab import dialogue, loads, servers
from harness.lab.dialogue import Fields
from harness.lab.loads import UdpLoad
from harness.overlay import falcon, irq, modes, snmp, softnet
from harness.overlay.cpus import CpuPlan, present_cpus
from harness.overlay.keeper import Keeper
from harness.overlay.plan import SERVER, Plan
from harness.overlay.running import on_this_machine
from harness.overlay.topology import Host, nic_server
from harness.workload import udpflow
from harness.workload.udpflow import Received, Receiver

# Nothing more comes when nothing came for so long; emulated CPUs stand still at times.
QUIET_S = 5.0
LOADS_EVERY_S = 0.05


def cpu_plan(cpus: tuple[int, ...]) -> CpuPlan:
    """Who does what: all CPUs but the last, where this program itself runs."""
    return CpuPlan.of(cpus[:-1])


class Guest:
    """A server host, its receivers, and the mode it is in."""

    def __init__(self, host: Host, cpus: CpuPlan, opened: ExitStack):
        self._host, self._cpus = host, cpus
        self._mode = opened.enter_context(ExitStack())
        self._receivers: list[Receiver] = []
        self._overlay = True

    def do(self, command: Fields) -> Fields:
        """Carry out a command and return its answer."""
        deeds: dict[str, Callable[..., Fields]] = {
            "mode": self.mode,
            "loads": self.loads,
            "drain": self.drain,
            "counters": self.counters,
        }
        return dialogue.carry_out(deeds, command)

    def mode(
        self, name: str, load: dict[str, Any], settings: dict[str, str | int] | None = None
    ) -> dict[str, Any]:
        """Leave the mode there was, and enter this one; ``settings`` are net.core's, on top
        of it, and taken back with it.

        What receives the load is started anew, and takes flows to begin at number 0.
        """
        mode, wanted = modes.named(name), loads.of(**load)
        self._mode.close()
        self._mode.enter_context(modes.applied(mode, self._host, self._cpus))
        if falcon.is_present():  # otherwise a mode of Falcon's was refused already
            for setting, value in (settings or {}).items():
                falcon.write_sysctl(setting, value)
        self._overlay = mode.overlay
        started = servers.start(wanted, self._host, self._cpus, mode.overlay, self._mode)
        self._receivers = started if isinstance(wanted, UdpLoad) else []
        self._seen, self._work = self._came(), softnet.snapshot()
        return {}

    def loads(self, seconds: float) -> dict[str, Any]:
        """The load of each Falcon CPU in percent, the mean over so many seconds from now on."""
        seen: list[list[int]] = []
        end = time.monotonic() + seconds
        while not seen or time.monotonic() < end:
            time.sleep(LOADS_EVERY_S)
            cpus = falcon.counters(self._host.namespace).cpus
            seen.append([cpus[cpu].load or 0 for cpu in self._cpus.stages])
        return {"loads": [mean(each) for each in zip(*seen, strict=True)]}

    def drain(self, packets: int) -> dict[str, Any]:
        """Wait for so many packets since the last time; what came, and the softirqs it took."""
        before = self._seen
        self._seen = udpflow.drained(self._came, before.received + packets, QUIET_S)
        work, self._work = self._work, softnet.snapshot()
        counted = [(self._work - work).cpus[cpu] for cpu in self._cpus.all]
        return {
            "came": asdict(self._seen.since(before)),
            "softirqs": sum(cpu.net_rx for cpu in counted),
            "received": sum(cpu.processed for cpu in counted),
        }

    def counters(self) -> dict[str, Any]:
        """What this host counted so far: see `harness.lab.remote.Counters`."""
        work = softnet.snapshot()
        counted = [work.cpus[cpu] for cpu in self._cpus.all]
        receivers = [receiver.report() for receiver in self._receivers]
        datagrams, segments = self._came_to_programs()
        return {
            "seconds": time.monotonic(),
            "datagrams": datagrams,
            "packets": datagrams + segments,
            "late": sum(report.out_of_order for report in receivers) + self._late_segments(),
            "softirqs": sum(cpu.net_rx for cpu in counted),
            "received": sum(cpu.processed for cpu in counted),
            "busy": [cpu.busy_ticks for cpu in counted],
            "idle": [cpu.idle_ticks for cpu in counted],
        }

    def _came_to_programs(self) -> tuple[int, int]:
        """Datagrams that programs read, and TCP's segments, where the load's are; what VXLAN
        gets in the host is not among them.
        """
        places = self._host.containers if self._overlay else (self._host.namespace,)
        counted = [snmp.parse(place.read_proc_net("snmp")) for place in places]
        return (
            sum(one["UdpInDatagrams"] for one in counted),
            sum(one["TcpInSegs"] for one in counted),
        )

    def _came(self) -> Received:
        """All that the receivers got so far, as if it were one; TCP's only if out of order."""
        reports = [receiver.report() for receiver in self._receivers]
        sums = {
            name: sum(getattr(report, name) for report in reports)
            for name in ("received", "bytes", "duplicates", "corrupted", "lost", "flows")
        }
        late = sum(report.out_of_order for report in reports) + self._late_segments()
        return Received(out_of_order=late, seconds=0.0, at_seconds=time.monotonic(), **sums)

    def _late_segments(self) -> int:
        """TCP's, of all containers and the host."""
        places = (self._host.namespace, *self._host.containers)
        texts = (place.read_proc_net("netstat") for place in places)
        return sum(snmp.parse(text)["TcpExtTCPOFOQueue"] for text in texts)


def answers(setting: Fields, commands: Iterator[str]) -> Iterator[str]:
    """Set everything up, then an answer to each of the ``commands``; at their end undo it.

    ``setting``: the "plan"; and of a real host the "device" that the wire is plugged into, the
    "cpus" (a `CpuPlan`), and the CPU for this program itself, its "own".
    """
    plan = Plan(**setting["plan"])
    with ExitStack() as opened:
        if "device" in setting:
            cpus = CpuPlan.from_json(setting["cpus"])
            os.sched_setaffinity(0, {setting["own"]})
            host = opened.enter_context(on_this_machine(plan, SERVER, setting["device"]))
            # Before anything that is not ours is changed. They put that back if we cannot.
            files = [*modes.own_files(host), *irq.affinities(host.namespace, host.nic)]
            opened.enter_context(Keeper(files))
            for namespace, masks in modes.overlay_files(host) if plan.running else ():
                opened.enter_context(Keeper(masks, namespace))
        else:
            present = present_cpus()
            cpus = cpu_plan(present)
            os.sched_setaffinity(0, {present[-1]})
            host = opened.enter_context(nic_server(plan))
        irq.pin(host.namespace, host.nic, cpus.nic)
        guest = Guest(host, cpus, opened)
        ready = {"cpus": asdict(cpus), "sinks": host.plan.sinks}
        yield from dialogue.answers(ready, guest.do, commands)


if __name__ == "__main__":
    sys.exit(dialogue.serve(answers))

# SPDX-License-Identifier: GPL-2.0-only
"""The demo: one UDP flow through a container overlay, with and without Falcon.

In: a Falcon kernel image. Out: two tables and a sentence on the screen.

With root, the client half of the overlay is made of this machine's network
namespaces and the receiving half lies in the VM, so that sending costs the VM
nothing::

      this machine                            VM (patched kernel)
    +------------------------------+        +------------------------------+
    | udpflow send                 |        |                 udpflow recv |
    |   container - br0 - vxlan0 - nic0 === nic0 - vxlan0 - br0 - container|
    +------------------------------+  TAP   +------------------------------+

Without root both halves lie in the VM, and the sender is measured, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from harness import console
from harness.errors import FalconError
from harness.machine import accel as accelerators
from harness.machine.base import Machine, Process
from harness.machine.qemu import QemuMachine
from harness.machine.tap import TapNic
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import Host, tap_client
from harness.paths import PROJECT
from harness.report import interleaved
from harness.workload import udpflow
from harness.workload.interleave import READY, Job, Window
from harness.workload.udpflow import Sender, Sent

MODE_NAMES = ("con", "rps-pipe", "falcon", "falcon+split")
BASELINE = "con"
SIZE_BYTES = 64
# The sender lives on the processors that emulate the machine, so it must not send
# much more than that can take. It starts low and doubles its rate in trials until
# con delivers less than this share; then any mode has room to show what it can do.
# A machine on KVM gets all there is.
TCG_RATE = 30_000.0
SATURATED = 0.8
TRIALS = 4
READY_TIMEOUT_S = 120.0
WINDOW_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class DemoConfig:
    """What to run: ``rounds`` times each mode for ``window_s`` after ``settle_s``.

    ``accel`` is "auto", "kvm" or "tcg".
    """

    kernel: Path
    smp: int = 6
    mem_mib: int = 2048
    accel: str = "auto"
    mode_names: tuple[str, ...] = MODE_NAMES
    rounds: int = 6
    window_s: float = 2.0
    settle_s: float = 0.7


def demo(config: DemoConfig) -> list[Window]:
    """Run the demo, print its tables, and return what was measured."""
    udpflow.build()
    accel = accelerators.choose(config.accel)
    rate = TCG_RATE if accel == "tcg" else 0.0
    job = Job(
        plan=Plan(),
        mode_names=config.mode_names,
        rounds=config.rounds,
        window_s=config.window_s,
        settle_s=config.settle_s,
        size=SIZE_BYTES,
        rate=rate,
        trials=TRIALS if rate else 0,
    )
    with _booted(replace(config, accel=accel), job.plan) as (machine, client):
        windows, sent = _measure(machine, client, replace(job, sender_here=client is None))
        trouble = machine.splats()
    _show(windows, config.smp, sent)
    if trouble:
        raise FalconError("the guest's kernel complained", trouble[0].line)
    return windows


@contextmanager
def _booted(config: DemoConfig, plan: Plan) -> Iterator[tuple[QemuMachine, Host | None]]:
    """The VM, and the client host it is wired to where that can be made."""
    with ExitStack() as opened:
        try:
            client, nic = opened.enter_context(tap_client(plan))
        except FalconError as error:
            console.note(f"{error}; so both ends of the flow go into the virtual machine")
            yield opened.enter_context(_machine(config)), None
        else:
            yield opened.enter_context(_machine(config, nic)), client


def _machine(config: DemoConfig, *nics: TapNic) -> QemuMachine:
    """With TCG all virtual CPUs share a few real ones.

    Idle CPUs that spin make every one of them an equally slow core, as only
    then the busiest stage sets the pace; but spinning during the boot and the
    set-up would cost minutes, so all CPUs but one come online only after it.
    """
    tcg = config.accel == "tcg"
    return QemuMachine(
        config.kernel,
        smp=config.smp,
        mem_mib=config.mem_mib,
        accel=config.accel,
        nics=nics,
        idle_poll=tcg,
        append=("maxcpus=1",) if tcg else (),
    )


def _measure(machine: Machine, client: Host | None, job: Job) -> tuple[list[Window], Sent | None]:
    """Run the job in the guest, and the sender here if there is a client host here.

    Returns the windows and, for a sender here, what it really sent.
    """
    guest = machine.start(
        [sys.executable, "-m", "harness.workload.interleave", job.to_json()], cwd=PROJECT
    )
    with ExitStack() as opened:
        opened.callback(guest.kill)
        bar = opened.enter_context(_progress())
        total = job.rounds * len(job.mode_names)
        task = bar.add_task("setting up the overlay", total=total)
        guest.wait_for(READY, READY_TIMEOUT_S)
        sender = opened.enter_context(_sender(client, job)) if client else None
        bar.update(task, description="finding the rate")
        for number in range(job.trials):
            trial = _window(guest, number)
            if client and sender and trial.packets_per_second > SATURATED * job.rate:
                sender.stop()
                job = replace(job, rate=2 * job.rate)
                sender = opened.enter_context(_sender(client, job, flow=1 + number))
        bar.update(task, description="measuring")
        windows = []
        for number in range(job.trials, job.trials + total):
            windows.append(_window(guest, number))
            bar.advance(task)
        sent = sender.stop() if sender else None
        guest.wait(WINDOW_TIMEOUT_S, check=True)
    return windows, sent


def _window(guest: Process, number: int) -> Window:
    """Wait for the guest's line about the window of that number."""
    guest.wait_for(f'"number": {number},', WINDOW_TIMEOUT_S)
    return Window.from_json(guest.stdout.splitlines()[1 + number])


def _sender(client: Host, job: Job, flow: int = 0) -> Sender:
    """A sender that counts from 0: each needs a flow of its own."""
    to_ip = job.plan.container(SERVER, 0).ip
    return Sender(client.at(0), to_ip, size=job.size, rate=job.rate, flow=flow)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console.err,
        transient=True,
    )


def _show(windows: list[Window], smp: int, sent: Sent | None) -> None:
    cpus = CpuPlan.of(tuple(range(smp)))
    roles = {cpu: "stage" for cpu in cpus.stages} | {cpus.nic: "NIC", cpus.app: "receiver"}
    rate = sent.packets_per_second if sent else 0.0
    where = f"{rate:,.0f} packets/s from outside" if sent else "sent on the NIC's CPU"
    console.out.print(f"One UDP flow of {SIZE_BYTES} bytes a packet, {where}.")
    console.out.print(interleaved.rate_table(windows, BASELINE))
    console.out.print(interleaved.share_table(windows, roles))
    console.out.print(interleaved.sentence(windows, sent_per_second=rate))

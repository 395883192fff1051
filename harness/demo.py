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

Real CPUs (KVM) are measured by the packets they deliver. Emulated ones share a few real ones, with
the sender, so what they deliver says more of the host than of a mode; they are measured by the
instructions that a packet takes (`harness.lab.instructions`).

Without root both halves lie in the VM, the sender is measured, too, and so packets are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from harness import console
from harness.errors import FalconError
from harness.lab import instructions, verdicts
from harness.lab.instructions import Sample
from harness.lab.loads import UdpLoad
from harness.machine import accel as accelerators
from harness.machine.base import Machine
from harness.machine.qemu import QemuMachine
from harness.machine.tap import TapNic
from harness.overlay.cpus import CpuPlan
from harness.overlay.plan import SERVER, Plan
from harness.overlay.topology import Host, tap_client
from harness.paths import PROJECT
from harness.report import instructions as counted
from harness.report import interleaved
from harness.workload import udpflow
from harness.workload.interleave import READY, Job, Window
from harness.workload.udpflow import Sender, Sent

MODE_NAMES = ("con", "rps-pipe", "falcon", "falcon+split")
BASELINE = "con"
SIZE_BYTES = 64
NO_PACE = " (the sender has the NIC's CPU, too, and may be what limits every mode; not so as root)"
READY_TIMEOUT_S = 120.0
WINDOW_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class DemoConfig:
    """What to run: ``rounds`` times each mode; by packets delivered for ``window_s``, after
    ``settle_s``.

    ``accel`` is "auto", "kvm" or "tcg". Instructions take one CPU more than ``smp``, the harness's.
    """

    kernel: Path
    smp: int = 6
    mem_mib: int = 2048
    accel: str = "auto"
    mode_names: tuple[str, ...] = MODE_NAMES
    rounds: int = 6
    window_s: float = 2.0
    settle_s: float = 0.7


def demo(config: DemoConfig) -> None:
    """Run the demo, and print its tables."""
    config = replace(config, accel=accelerators.choose(config.accel))
    wired = _can_wire(Plan())
    if config.accel == "tcg" and wired:
        _count_instructions(config)
    else:
        _count_packets(config, wired)


def _can_wire(plan: Plan) -> bool:
    """Whether the client half can be made here: it is tried. Why not is said."""
    try:
        with tap_client(plan):
            return True
    except FalconError as error:
        console.note(f"{error}; so both ends of the flow go into the virtual machine")
        return False


# ---- by instructions ----------------------------------------------------------------------


def _count_instructions(config: DemoConfig) -> None:
    job = instructions.Config(
        config.kernel,
        UdpLoad(SIZE_BYTES),
        config.mode_names,
        rounds=config.rounds,
        smp=config.smp + 1,
        mem_mib=config.mem_mib,
        baseline=BASELINE,
    )
    samples: list[Sample] = []
    with ExitStack() as opened:
        bar = opened.enter_context(_progress())
        task = bar.add_task("setting up the overlay", total=job.rounds * len(job.mode_names))
        rig = opened.enter_context(instructions.opened(job.boot))
        bar.update(task, description="finding the rate")
        for sample in instructions.measure(job, rig):
            samples.append(sample)
            bar.update(task, description="measuring", advance=1)
        cpus = rig.cpus
    _show_samples(samples, job, cpus)


def _show_samples(samples: Sequence[Sample], job: instructions.Config, cpus: CpuPlan) -> None:
    rate = median(sample.sent_per_second for sample in samples)
    title = f"One UDP flow of {SIZE_BYTES} bytes a packet, {rate:,.0f} packets/s"
    console.out.print(counted.table(samples, BASELINE, title, job.load))
    # Each round has another flow, which has other CPUs.
    first = [sample for sample in samples if sample.round == samples[0].round]
    shares = {
        one.mode: [{cpu: part / one.total for cpu, part in enumerate(one.work)}]
        for [one] in interleaved.by_mode(first).values()
    }
    title = "Share of a packet's instructions by CPU, in the first round"
    console.out.print(interleaved.share_table(shares, _roles(cpus), title))

    def ratio(mode: str, baseline: str) -> interleaved.Spread:
        found = counted.ratios(samples, mode, baseline, verdicts.capacity)
        assert found  # a packet that came took instructions
        return found

    told = interleaved.sentence(samples, ratio, "can carry")
    console.out.print(f"By its busiest CPU, which bounds a pipeline: {told}")


# ---- by packets ---------------------------------------------------------------------------


def _count_packets(config: DemoConfig, wired: bool) -> None:
    """``wired``: the client half is made here."""
    udpflow.build()
    job = Job(
        plan=Plan(),
        mode_names=config.mode_names,
        rounds=config.rounds,
        window_s=config.window_s,
        settle_s=config.settle_s,
        sender_here=not wired,
        size=SIZE_BYTES,
    )
    with _booted(config, job.plan, wired) as (machine, client):
        windows, sent = _measure(machine, client, job)
        trouble = machine.splats()
    _show_windows(windows, config.smp, sent)
    if trouble:
        raise FalconError("the guest's kernel complained", trouble[0].line)


@contextmanager
def _booted(
    config: DemoConfig, plan: Plan, wired: bool
) -> Iterator[tuple[QemuMachine, Host | None]]:
    """The VM, and the client host it is wired to if it is to be."""
    with ExitStack() as opened:
        if not wired:
            yield opened.enter_context(_machine(config)), None
            return
        client, nic = opened.enter_context(tap_client(plan))
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
        bar.update(task, description="measuring")
        windows = []
        for number in range(total):
            guest.wait_for(f'"number": {number},', WINDOW_TIMEOUT_S)
            windows.append(Window.from_json(guest.stdout.splitlines()[1 + number]))
            bar.advance(task)
        sent = sender.stop() if sender else None
        guest.wait(WINDOW_TIMEOUT_S, check=True)
    return windows, sent


def _sender(client: Host, job: Job) -> Sender:
    to_ip = job.plan.container(SERVER, 0).ip
    return Sender(client.at(0), to_ip, size=job.size)


def _show_windows(windows: Sequence[Window], smp: int, sent: Sent | None) -> None:
    rate = sent.packets_per_second if sent else 0.0
    where = f"{rate:,.0f} packets/s from outside" if sent else "sent on the NIC's CPU"
    console.out.print(f"One UDP flow of {SIZE_BYTES} bytes a packet, {where}.")
    console.out.print(interleaved.rate_table(windows, BASELINE))
    shares = {
        mode: [window.softirq_share for window in own]
        for mode, own in interleaved.by_mode(windows).items()
    }
    roles = _roles(CpuPlan.of(tuple(range(smp))))
    title = "Share of the softirq work by CPU"
    console.out.print(interleaved.share_table(shares, roles, title))
    pace = interleaved.pace(windows, rate) if sent else NO_PACE
    ratio = partial(interleaved.ratios, windows)
    console.out.print(interleaved.sentence(windows, ratio, "delivered", pace))


# ---- both ---------------------------------------------------------------------------------


def _roles(cpus: CpuPlan) -> dict[int, str]:
    return {cpu: "stage" for cpu in cpus.stages} | {cpus.nic: "NIC", cpus.app: "receiver"}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console.err,
        transient=True,
    )

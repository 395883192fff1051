# SPDX-License-Identifier: GPL-2.0-only
"""The tasks of ``./inv``: parse, call, print. What they do is in ``harness``."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import invoke

from harness import paths
from harness.console import err, note, out
from harness.errors import FalconError
from harness.kernel.series import DEFAULT

INTERRUPTED = 128 + signal.SIGINT

HELP = {
    "kernel": f"Kernel line whose patch series is used; default: {DEFAULT}.",
    "source": "Kernel tree or tarball to use instead of the distribution's.",
    "git": "Git repository to take the kernel from (bare ones too); needs --rev.",
    "rev": "Revision in the repository given by --git.",
    "smp": "CPUs of the virtual machine; default: 8.",
    "mem": "Memory of the virtual machine in MiB; default: 2048.",
    "add_config": "More fragments of kernel-configs/, by commas, e.g. debug.",
    "accel": "kvm, tcg (emulation) or auto, the default: kvm where it works.",
    "jobs": "Compiler processes at once; default: one a CPU and one more.",
    "host": "A host, [user@]name[:port] or a name of ~/.ssh/config; may be given several times.",
    "ask_password": "Ask for a password, for the login where no key does, and for sudo.",
}
# What bench sends unless told, and the modes it compares.
LOAD = {"protocol": "udp", "size": 16, "flows": 1, "containers": 1}
DEFAULT_MODES = ("con", "rps-pipe", "falcon-static", "falcon", "falcon+split")
# Options that may be given several times.
ITERABLE = ["host"]


def task(function):
    """An invoke task whose user errors are one line, and whose value is the exit status."""

    @functools.wraps(function)
    def run(*args, **options):
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, _end)
        try:
            status = function(*args, **options)
        except FalconError as error:
            err.print(f"error: {error}", style="red", markup=False)
            status = error.status
        except KeyboardInterrupt:
            note("interrupted")
            status = INTERRUPTED
        if status:
            raise SystemExit(status)

    known = [name for name in HELP if name in inspect.signature(function).parameters]
    help_texts = {name: HELP[name] for name in known} | getattr(function, "help", {})
    several = [name for name in ITERABLE if name in inspect.signature(function).parameters]
    return invoke.task(run, help=help_texts, auto_shortflags=False, iterable=several)


def options(**help_texts):
    """Help for the options that one task alone has."""

    def remember(function):
        function.help = help_texts
        return function

    return remember


def _end(number, _frame):
    raise SystemExit(128 + number)


def _path(text):
    return Path(text).expanduser().absolute() if text else None


def _source(kernel, source, git, rev):
    """The series called ``kernel`` and its source."""
    from harness.kernel import series
    from harness.kernel import source as sources

    chosen = series.load(kernel)
    return chosen, sources.get(chosen, path=_path(source), git=_path(git), rev=rev)


def _fragments(accel, more=None, falcon=True):
    """Fragments for a virtual machine, which needs more of them if emulated, and ``more``.

    Falcon's KUnit tests come along unless there are ``more``, which change enough.
    """
    from harness.machine.accel import choose

    emulated = accel == "tcg" or choose(accel) == "tcg"
    others = more.split(",") if more else ["kunit"] if falcon else []
    return ("guest", *(["tcg"] if emulated else []), *others)


def _image(kernel, source, git, rev, accel, add_config=None, **build_options):
    """The image for a virtual machine, from the cache or built now."""
    from harness.kernel.build import build

    chosen, tree = _source(kernel, source, git, rev)
    fragments = _fragments(accel, add_config, build_options.get("falcon", True))
    return build(chosen, source=tree, fragments=fragments, **build_options)


def _access(ask_password):
    """How to get into hosts: passwords from the terminal or the environment."""
    from getpass import getpass

    from harness.machine.ssh import Access

    asked = getpass("password for login and sudo: ", sys.stderr) if ask_password else None
    return Access(
        password=os.environ.get("FALCON_SSH_PASSWORD", asked),
        sudo_password=os.environ.get("FALCON_SUDO_PASSWORD", asked),
    )


def _remainder():
    """The words after ``--``, as the user quoted them."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


@task
def doctor(_c):
    """Show what this machine has and lacks of what the project needs."""
    from harness import doctor as doctors

    findings = doctors.examine()
    for finding in findings:
        out.print(finding.line(), markup=False, style=finding.style)
    return 1 if any(finding.ok is False for finding in findings) else 0


@task
def fetch_kernel(_c, kernel=DEFAULT, source=None, git=None, rev=None):
    """Get the kernel's source into the cache; prints where it is.

    Tried in order: what --source or --git and --rev name; the distribution's
    linux-source package, installed if possible; kernel.org's tarball.
    """
    _series, tree = _source(kernel, source, git, rev)
    note(f"Linux {tree.version} from {tree.origin}")
    out.print(str(tree.tree), markup=False)


@task
@options(to="Copy the patched tree into this directory, which must not exist yet.")
def patch_kernel(_c, kernel=DEFAULT, source=None, git=None, rev=None, to=None):
    """Apply the series without fuzz; prints where the patched tree is.

    The tree in the cache belongs to the harness. Use --to for one of your own.
    """
    from harness.kernel import patches

    chosen, tree = _source(kernel, source, git, rev)
    out.print(str(patches.patched_tree(chosen, tree, _path(to))), markup=False)


@task
@options(
    falcon="Build with CONFIG_NET_FALCON, or without.",
    config="Fragments of kernel-configs/, by commas; default: what the machine needs.",
)
def build_kernel(
    _c,
    kernel=DEFAULT,
    source=None,
    git=None,
    rev=None,
    accel="auto",
    config=None,
    falcon=True,
    jobs=0,
):
    """Build the patched kernel, or take it from the cache; prints where the image is."""
    from harness.kernel.build import build

    chosen, tree = _source(kernel, source, git, rev)
    fragments = tuple(config.split(",")) if config else _fragments(accel, falcon=falcon)
    image = build(chosen, source=tree, fragments=fragments, falcon=falcon, jobs=jobs or None)
    note(f"Linux {image.release}; how it was built is in {image.metadata}; to repeat it:")
    note(f"  {json.loads(image.metadata.read_text())['command']}")
    out.print(str(image.bzimage), markup=False)


@task
@options(falcon="Boot with CONFIG_NET_FALCON, or without.")
def boot(
    _c,
    kernel=DEFAULT,
    source=None,
    git=None,
    rev=None,
    smp=8,
    mem=2048,
    accel="auto",
    add_config=None,
    falcon=True,
):
    """Boot the patched kernel in QEMU: a shell, or "boot -- COMMAND".

    The guest sees this host's files, read-only. The shell's "exit" powers it
    off; a COMMAND's exit status becomes this task's.
    """
    from harness import machine

    image = _image(kernel, source, git, rev, accel, add_config, falcon=falcon)
    settings = {"smp": smp, "mem_mib": mem, "accel": accel}
    if command := _remainder():
        return machine.boot_command(image.bzimage, command, **settings)
    return machine.boot_shell(image.bzimage, **settings)


@task
@options(build="Build the whole image of every prefix, not only the touched objects (slow).")
def check_patches(_c, kernel=DEFAULT, source=None, git=None, rev=None, build=False):
    """Check the series as a maintainer would: applies, checkpatch, every prefix compiles.

    Every prefix is compiled at W=1 with CONFIG_NET_FALCON=n and =y, and may add
    no warning. Goes on after a failure, and names them all.
    """
    from harness.kernel import check

    chosen, tree = _source(kernel, source, git, rev)
    failed = 0
    for name, make in check.all_checks(chosen, tree, whole=build):
        try:
            make()
        except FalconError as error:
            failed += 1
            out.print(f"FAIL  {name}\n      {error}", markup=False)
        else:
            out.print(f"ok    {name}", markup=False)
    return 1 if failed else 0


@task
def check_cost(_c, kernel=DEFAULT, source=None, git=None, rev=None):
    """Show what the series costs where it is not used, and for a decision, by the object code.

    Instructions of the fast path's functions in the unpatched kernel and in the
    patched one with Falcon built in and off. Status 1 if CONFIG_NET_FALCON=n
    changes any function of their files, off costs more than no-ops, or a usual
    decision takes more than 60 instructions.
    """
    from harness.kernel import cost, decision
    from harness.report import costs

    chosen, tree = _source(kernel, source, git, rev)
    report = cost.measure(chosen, tree)
    out.print(costs.table(report, tree.version))
    for line in costs.summary(report):
        out.print(line, markup=False)
    steps = decision.measure(chosen)
    for line in costs.decision_lines(steps):
        out.print(line, markup=False)
    too_much = decision.usual(steps) > decision.MOST
    return 1 if report.changed or report.dearer or too_much else 0


@task
@options(
    edit="Make the git tree, with the series as commits, instead of reading it.",
    tree="The git tree; default: linux-KERNEL in the project.",
    base="The commit or tag in the tree on which the series stands.",
)
def refresh_patches(
    _c,
    kernel=DEFAULT,
    source=None,
    git=None,
    rev=None,
    edit=False,
    tree=None,
    base="falcon-base",
):
    """Change the series with git: --edit, commit and rebase there, then without --edit.

    The commits after --base become the files in patches/, the same bytes for
    the same commits.
    """
    from harness.kernel import patches, refresh, series

    place = _path(tree) or paths.PROJECT / f"linux-{kernel}"
    if edit:
        chosen, pristine = _source(kernel, source, git, rev)
        refresh.edit_tree(pristine, patches.load(chosen, may_be_empty=True), place)
        out.print(str(place), markup=False)
        return
    changes = refresh.regenerate(series.load(kernel), place, base)
    for change in changes:
        out.print(f"{change.kind:8} {change.name}", markup=False)
    note(f"{len(changes)} patch files changed")


@task
@options(
    kernel="One kernel line, with every prefix of its series compiled; default: all.",
    only="Run one suite: unit, server, patches, integration or torture.",
    k="Run the tests whose names match this expression (pytest's -k); no torture then.",
    torture_minutes="How long to torture a kernel; default: 5.",
    host="Run the integration suite on this patched host instead; may be given several times.",
    system="Run the system test instead: installs on a server in a virtual machine (long).",
)
def test(
    _c,
    kernel=None,
    source=None,
    git=None,
    rev=None,
    smp=8,
    mem=2048,
    accel="auto",
    add_config=None,
    only=None,
    k=None,
    torture_minutes=5.0,
    host=None,
    ask_password=False,
    system=False,
):
    """Run every test: unit tests, and for each kernel patch checks and its virtual machine.

    The default kernel, or the one that is named, is tortured, too.

    Ends with one line, "N passed, N failed, N skipped", and before it a line for
    each kernel; JUnit XML is in results/. Without --kernel a kernel whose source
    cannot be had is reported as not run. With --host only the integration suite
    runs, on real machines.
    """
    from harness import suite
    from harness.kernel import series
    from harness.torture import run

    if only and only not in suite.SUITES:
        raise FalconError(f"there is no test suite {only}", f"there are {', '.join(suite.SUITES)}")
    if system:
        return suite.run_system(keyword=k)
    if host:
        from harness.hosts import suite as on_hosts

        return on_hosts.run(host, _access(ask_password), keyword=k)
    ordeal = run.TortureConfig(float(torture_minutes), run.parse_seed(None), accel=accel)
    named = kernel or (DEFAULT if source or git or rev else None)
    kernels = [
        _kernel_under_test(
            name,
            source,
            git,
            rev,
            accel,
            add_config,
            smp=smp,
            mem=mem,
            ordeal=ordeal,
            alone=bool(named),
        )
        for name in ([named] if named else series.names())
    ]
    return suite.run([only] if only else suite.SUITES, kernels, keyword=k)


def _kernel_under_test(name, source, git, rev, accel, add_config, *, smp, mem, ordeal, alone):
    """One of several kernels is tested less thoroughly, unless it is the default one."""
    from harness import suite
    from harness.machine.qemu import QemuMachine

    def machine():
        image = _image(name, source, git, rev, accel, add_config)
        shares = [paths.RESULTS]
        guest = QemuMachine(image.bzimage, smp=smp, mem_mib=mem, accel=accel, shares=shares)
        return image, guest

    place = {"--source": _path(source), "--git": _path(git), "--rev": rev}
    return suite.Kernel(
        name,
        source=lambda: _source(name, source, git, rev)[1],
        machine=machine,
        torture=lambda: _torture(name, source, git, rev, ordeal),
        patch_options=(f"--kernel={name}", *(f"{k}={v}" for k, v in place.items() if v)),
        whole=alone or name == DEFAULT,
        required=alone or name == DEFAULT,
    )


@task
@options(
    smp="CPUs of the virtual machine, and one more where instructions are counted; default: 6."
)
def demo(_c, kernel=DEFAULT, source=None, git=None, rev=None, smp=6, mem=2048, accel="auto"):
    """Build, boot, send overlay traffic, and show what Falcon does to it."""
    from harness import demo as demos

    image = _image(kernel, source, git, rev, accel)
    demos.demo(demos.DemoConfig(image.bzimage, smp=smp, mem_mib=mem, accel=accel))


@task
@options(
    figure="Figures of the paper, by commas: 13 is all of it, 13cd a part, and 13-time or"
    " 13cd-instructions one by that measure; without it the load that is given below.",
    all="All figures that can be measured here; the others are named, with the reason.",
    quick="Few points, rounds and packets, short windows: a smoke.",
    modes="Modes to compare, by commas; of a figure those that it has, with its baseline, default:"
    " all. Of another load the first one is the baseline; default: all but host ones.",
    protocol="udp (udpflow), tcp (iperf3), or by time sockperf-udp, sockperf-tcp, memcached, web;"
    " default: udp.",
    size="Bytes of payload a message: a datagram, a write to TCP, a value, a page; default: 16.",
    flows="Flows or connections; default: 1.",
    containers="Containers that they go to; default: 1.",
    rounds="Times each mode is measured, each time with other flows; default: 5.",
    packets="Packets that are counted each time, several to a large message; default: 10000.",
    seconds="Seconds that a measurement by time looks at each time; default: 5.",
    smp="CPUs of the virtual machine, or of --server that are used; default: 7.",
    accel="For figures by time: kvm, tcg (emulation: numbers, but no verdicts), or auto, the"
    " default: kvm, and where that does not work, or CPUs are too few, no such figures.",
    again="Measure what was measured before once more; the report says how far both agree.",
    server="Measure by time on this host, over SSH, with the kernel that it runs; needs --client.",
    client="The host that sends to --server.",
    address="The server's address that is sent to; default: one in a network of both, by the"
    " fastest card.",
    vni="Measure the VXLAN overlay with this VNI, Docker's for one, which runs on --server and"
    " --client already, between its containers; default: one of our own is built.",
)
def bench(
    _c,
    kernel=DEFAULT,
    source=None,
    git=None,
    rev=None,
    figure=None,
    all=False,
    quick=False,
    modes=None,
    protocol=LOAD["protocol"],
    size=LOAD["size"],
    flows=LOAD["flows"],
    containers=LOAD["containers"],
    rounds=5,
    packets=10_000,
    seconds=5.0,
    smp=7,
    mem=2048,
    accel="auto",
    again=False,
    server=None,
    client=None,
    address="",
    vni=0,
    ask_password=False,
):
    """Compare modes by the instructions a packet costs, and with KVM by time.

    QEMU counts what each emulated CPU executes, on any machine, busy or not: the
    CPU with the most work a packet bounds the throughput. Messages a second and
    latency take real CPUs: with KVM, or of a host that another one sends to. What
    is measured stays in results/bench, and a figure that was cut short goes on where
    it was.
    """
    from harness.lab import campaign, experiments, loads

    load = {"protocol": protocol, "size": size, "flows": flows, "containers": containers}
    names = modes.split(",") if modes else []
    if all or figure:
        chosen = _figures("all" if all else figure, names, load)
    else:
        names = tuple(names or DEFAULT_MODES)
        chosen = [experiments.single(loads.of(**load), names, by_time=bool(server))]
    setup = campaign.Setup(
        Path(), "", rounds, packets, smp, mem, seconds=float(seconds), accel=accel, again=again
    )
    setup = setup.hurried() if quick else setup
    if not server and not client and not vni:
        _bench(setup, chosen, (kernel, source, git, rev))
        return
    if source or git or rev or accel != "auto":
        raise FalconError(
            "hosts are measured with the kernel that they run",
            todo="leave --source, --git, --rev and --accel out",
        )
    where = {"address": address, "vni": vni}
    _bench_hosts(setup, chosen, server, client, _access(ask_password), where)


def _figures(figure, names, load):
    """The experiments of figures, by commas, in the modes of these ``names``, if there are any;
    ``load``: what was asked for beside, which cannot be.
    """
    from harness.lab import experiments
    from harness.overlay import modes

    if given := [f"--{name}" for name, value in load.items() if value != LOAD[name]]:
        raise FalconError("a figure has loads of its own", todo=f"leave {', '.join(given)} out")
    for name in names:
        modes.named(name)
    if figure == "all":
        chosen = list(experiments.EXPERIMENTS.values())
    else:
        named = (one for name in figure.split(",") for one in experiments.named(name))
        chosen = list({one.key: one for one in named}.values())
    if not names:
        return chosen
    if told := experiments.left_out(chosen, names):
        note(told)
    return [one.among(names) for one in chosen]


def _bench_hosts(setup, chosen, server, client, access, where):
    """Measure what can be of ``chosen`` on two hosts, and show it; ``where`` of them: `pair.look`'s
    address and vni.
    """
    from harness.lab import pair
    from harness.machine.ssh import SshMachine

    if not server or not client or server == client:
        raise FalconError(
            "it takes two hosts, one to measure and one that sends to it",
            todo="name both: ./inv bench --server A --client B",
        )
    programs = list(dict.fromkeys(name for one in chosen for name in one.programs))
    with SshMachine(server, access) as one, SshMachine(client, access) as other:
        sites = (pair.Site(server, one), pair.Site(client, other))
        hosts = pair.look(*sites, programs, setup.smp, **where)
        setup = replace(setup, hosts=hosts, release=hosts.release, smp=hosts.smp)
        _measure(setup, _measurable(setup, chosen))


def _bench(setup, chosen, place):
    """Measure what can be of ``chosen``, with images of the kernel at ``place``, and show it."""
    from harness.lab import campaign
    from harness.lab.experiments import INSTRUCTIONS
    from harness.machine import accel

    measured = _measurable(setup, chosen)
    kinds = {accel.choose("tcg" if e.measure == INSTRUCTIONS else setup.accel) for e in measured}
    images = {kind: _image(*place, kind) for kind in kinds}
    setup = replace(
        setup,
        release=next(iter(images.values())).release,
        **{campaign.KERNEL_OF[kind]: image.bzimage for kind, image in images.items()},
    )
    _measure(setup, measured)


def _measurable(setup, chosen):
    """What can be measured of ``chosen``; why others cannot is said, a line a reason."""
    from harness.lab import campaign

    measured, refusals = campaign.measurable(setup, chosen)
    if not measured:
        raise FalconError("there is nothing to measure", "; ".join(refusals))
    for line in refusals:
        note(line)
    setup.check(measured)  # before an image is built
    return measured


def _command(argv):
    """What a user types for these words; ./inv itself says where the tasks are."""
    words = argv[3:] if argv[1:2] == ["--search-root"] else argv[1:]
    return shlex.join(["./inv", *words])


def _measure(setup, experiments):
    """Measure them, and show each as soon as it is complete."""
    from harness.lab import campaign
    from harness.report import figures

    for experiment, rows in campaign.run(setup, experiments, _command(sys.argv)):
        figures.show(experiment, rows)
        note(f"every sample is in {campaign.file_of(setup.release, experiment.key)}")


@task
@options(
    kernel="One kernel line; default: all that were measured.",
    to="Directory for the page, report.json and samples.csv; default: results/report.",
)
def report(_c, kernel=None, to=None):
    """Put what bench measured on one HTML page; prints where it is.

    Plots beside the paper's claims, a verdict on each claim, and where each number
    comes from. The page needs no network; the samples are beside it as CSV and JSON.
    """
    from harness.report import evidence, page

    kernels = evidence.collect(kernel)
    written = page.write(kernels, _path(to) or page.DIRECTORY)
    out.print(str(written), markup=False)
    for one in kernels:
        out.print(one.summary(), markup=False)


@task
@options(
    kernel=f"Kernel line whose newest samples in results/bench are used; default: {DEFAULT}.",
    modes="Modes to predict, by commas, the baseline first.",
    size="Bytes of payload a message, of the samples too; default: 16.",
    flows="UDP flows; default: 16.",
    containers="Containers that they go to in turn, each with a CPU of its own; default: 16.",
    cpus="CPUs for the stages; default: 16.",
    nics="Queues of the NIC, each with a CPU of its own; default: 4.",
    ips="Instructions a second of each CPU, an assumption; default: 3e9.",
    check="Compare the model with what was measured, and say how far off it is.",
)
def predict(
    _c,
    kernel=DEFAULT,
    modes="con,rps-pipe,falcon,falcon+split",
    size=16,
    flows=16,
    containers=16,
    cpus=16,
    nics=4,
    ips=3e9,
    check=False,
):
    """Predict throughput and latency on more CPUs than can be booted: a model, no measurement.

    A simulation of the pipeline, which is fed with the instructions a stage costs
    as "bench --figure 10" measured them, and places packets by the kernel's code.
    """
    from harness.lab import model, scenario
    from harness.report import predictions

    fed = model.feed(kernel, size)
    if check:
        checks = model.check(fed)
        out.print(predictions.check_table(checks, fed))
        out.print(predictions.verdict(checks), markup=False)
        return
    setup = model.Setup(flows, containers, scenario.Cpus.apart(nics, cpus, containers), ips)
    found = model.predict(fed, setup, modes.split(","))
    out.print(predictions.table(found, predictions.title(fed, setup)))
    out.print(predictions.remark(found), markup=False)


@task
@options(
    interval="Seconds between two measurements; default: 1.",
    once="Measure once, print it, and end.",
    json="Print a line of JSON for each measurement.",
    count="End after so many measurements; default: 0, go on until interrupted.",
)
def top(_c, interval=1.0, once=False, json=False, count=0):
    """Show what Falcon does on this patched host, live: its CPUs and its stages.

    Counts packets a second, of all network namespaces that it may look into (as
    root: all). Ctrl-C ends it. Into a file or a pipe it prints one measurement
    after the other.
    """
    from harness import top as tops

    count = 1 if once else count
    tops.run(tops.TopConfig(interval, count, plain=once, as_json=json))


@task
@options(
    config="host, the default: the host's own configuration; or fragments of kernel-configs/.",
    localmodconfig="Of the host's modules build only those that are loaded there.",
    timeout="Seconds the host has to come back after its reboot; default: 600.",
)
def install_kernel(
    _c,
    host=None,
    kernel=DEFAULT,
    source=None,
    git=None,
    rev=None,
    config="host",
    localmodconfig=False,
    timeout=600,
    ask_password=False,
    jobs=0,
):
    """Install the patched kernel on --host, boot it once, verify it, then make it the default.

    Until it is verified the host's present kernel stays the default: if the new one
    panics or does not answer in time, the host boots the old one by itself.
    """
    from harness.hosts import fleet, rollout

    series, tree = _source(kernel, source, git, rev)
    choice = rollout.Choice(series, tree, config, localmodconfig, float(timeout), jobs or None)
    outcomes = rollout.install_on(host, _access(ask_password), choice)
    if len(outcomes) > 1:
        out.print(fleet.summary(outcomes, "install-kernel", rollout.installed))
    fleet.only_error(outcomes)
    return fleet.status(outcomes)


@task
@options(timeout="Seconds the host has to come back after its reboot; default: 600.")
def uninstall_kernel(_c, host=None, timeout=600, ask_password=False):
    """Remove our kernels from --host, which boots another first, and put GRUB back as it was."""
    from harness.hosts import fleet, rollout

    outcomes = rollout.uninstall_on(host, _access(ask_password), float(timeout))
    fleet.only_error(outcomes)
    out.print(fleet.summary(outcomes, "uninstall-kernel", rollout.uninstalled))
    return fleet.status(outcomes)


@task
def host_status(_c, host=None, ask_password=False):
    """Show what runs on --host, what it boots by default, and what of ours is there."""
    from harness.hosts import fleet, status

    outcomes = fleet.on_each(host, _access(ask_password), status.look)
    fleet.only_error(outcomes)
    out.print(status.table(outcomes))
    return fleet.status(outcomes)


@task
@options(
    apply="Set disjoint RPS masks for NIC, VXLAN and container devices.",
    show="Show the devices and their masks; the default.",
    undo="Put back exactly what was there.",
    cpus="CPUs for the stages, e.g. 1-6; default: all but the first and isolated ones.",
    vni="One overlay alone, by its VNI.",
)
def rps_pipeline(
    _c, host=None, ask_password=False, apply=False, show=False, undo=False, cpus="", vni=0
):
    """Pipeline a running overlay by RPS alone: no patch, any kernel, this machine or --host.

    The overlay is found by netlink, Docker's hidden namespaces included. The masks
    that were there are kept on the host in /run/falcon until --undo.
    """
    from harness.hosts import pipeline

    chosen = [name for name, on in (("apply", apply), ("show", show), ("undo", undo)) if on]
    if len(chosen) > 1:
        raise FalconError(f"--{chosen[0]} and --{chosen[1]} exclude each other")
    request = pipeline.Request(chosen[0] if chosen else "show", cpus, vni or None)
    return pipeline.run(request, host, _access(ask_password))


@task
@options(
    only="Run these alone, by commas, e.g. gro,veth,forwarding/router; default: all there are.",
    smp="CPUs of the virtual machines; default: 4.",
)
def selftests(
    _c, kernel=DEFAULT, source=None, git=None, rev=None, smp=4, mem=2048, accel="auto", only=None
):
    """Run the kernel's own network selftests: stock kernel, Falcon off, and on.

    Builds the unpatched and the patched kernel. Status 1 if a test passes on the
    first and does not on the other. Logs and JSON are in results/.
    """
    from harness import selftests as suites
    from harness.report import selftests as reports

    chosen, tree = _source(kernel, source, git, rev)
    config = suites.Config(chosen, tree, _fragments(accel, "selftests"), smp, mem, accel)
    rows = suites.run(config, only.split(",") if only else ())
    out.print(reports.table(rows, tree.version))
    for line in reports.summary(rows):
        out.print(line, markup=False)
    return 1 if any(row.is_regression for row in rows) else 0


@task
@options(
    minutes="How long; the epoch under way is finished. Default: 30.",
    seed="Number that decides every action; default: a new one, which is printed.",
    smp="CPUs of the virtual machine; default: 4.",
    mem="Memory of the virtual machine in MiB; default: 4096.",
)
def torture(
    _c,
    kernel=DEFAULT,
    minutes=30.0,
    seed=None,
    source=None,
    git=None,
    rev=None,
    smp=4,
    mem=4096,
    accel="auto",
):
    """Change everything at random under traffic on a debug kernel, and account for every packet.

    Ends at the first complaint of the kernel's, or packet, byte or object that is
    missing, with status 1 and the seed that repeats the actions.
    """
    from harness.torture import run

    # Made before an image is built for a quarter of an hour: it refuses bad options.
    config = run.TortureConfig(float(minutes), run.parse_seed(seed), smp, mem, accel)
    _torture(kernel, source, git, rev, config)


def _torture(kernel, source, git, rev, config):
    """Build the debug kernel and do as ``config`` says."""
    from harness.torture import run

    image = _image(kernel, source, git, rev, config.accel, "torture")
    run.torture(config, image.bzimage, image.release)


@task
@options(all="Remove sources, downloads and images too: all that the cache holds.")
def clean(_c, all=False):
    """Remove build directories, work trees and results; with --all the whole cache.

    A git tree made by refresh-patches --edit is yours and stays.
    """
    from harness.kernel import cache

    cache.clean(everything=all)
    shutil.rmtree(paths.RESULTS, ignore_errors=True)

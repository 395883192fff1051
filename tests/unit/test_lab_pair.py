# SPDX-License-Identifier: GPL-2.0-only
"""Two hosts: what is found out about them, and measurements on two that are namespaces of this
machine, of which nothing may be left, however they end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dockernet
import pytest
from sshserver import SshServer

from harness import tools
from harness.errors import FalconError
from harness.hosts import payload
from harness.hosts.payload import Payload
from harness.lab import pair, survey, timed
from harness.lab.loads import Load, MemcachedLoad, SockperfTcpLoad, UdpLoad, WebLoad
from harness.lab.pair import Pair, Site, Wire
from harness.lab.rig import Boot
from harness.lab.timed import REAL, Config
from harness.machine.base import Input, MachineDied, Process
from harness.machine.local import LocalMachine
from harness.machine.ssh import Access, SshMachine
from harness.overlay import falcon, namespaces, running, snmp
from harness.overlay.cpus import CpuPlan, online_cpus
from harness.overlay.netns import Namespace
from harness.overlay.plan import VXLAN_PORT, Plan
from harness.paths import PROJECT
from harness.workload import udpflow

PATIENCE_S = 30.0
NIC = "eth7"
SERVER_IP, CLIENT_IP = "192.168.79.1", "192.168.79.2"
RPS = f"/sys/class/net/{NIC}/queues/rx-0/rps_cpus"
BOOT = Boot(Path(), Plan(containers=2), smp=2, mem_mib=0, accel=REAL)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nsenter") is None or len(online_cpus()) < 2,
    reason="needs root for namespaces, nsenter, and two CPUs",
)

needs_programs = pytest.mark.skipif(
    not all(map(tools.find, ("sockperf", "memcached", "nginx", "wrk"))),
    reason="needs sockperf, memcached, nginx and wrk",
)


class Room:
    """A host that is a network namespace of this machine."""

    namespace: Namespace

    def inside(self, argv: Sequence[str], cwd: str | Path | None) -> list[str]:
        """A command in the namespace, with the /sys of who lives there."""
        thread = f"/proc/{os.getpid()}/task/{self.namespace.call(threading.get_native_id)}/ns"
        enter = ["nsenter", f"--net={thread}/net", f"--mount={thread}/mnt", "--"]
        return [*enter, "env", "-C", str(cwd or "/"), *argv]

    def mask(self) -> int:
        """RPS of its card."""
        return int(self.namespace.read(RPS).replace(",", ""), 16)

    def has_vxlan(self) -> bool:
        """It has the socket of a VXLAN device, wherever that device is."""
        return f":{VXLAN_PORT:04X} " in self.namespace.read_proc_net("udp")


class LocalRoom(Room, LocalMachine):
    """One whose programs this process starts."""

    def __init__(self, namespace: Namespace):
        super().__init__()
        self.namespace = namespace
        self.started: list[Process] = []

    def start(
        self, argv: Sequence[str], *, cwd: str | Path | None = None, **options: Any
    ) -> Process:
        self.started.append(super().start(self.inside(argv, cwd), **options))
        return self.started[-1]

    def kill_agent(self) -> None:
        """As who loses the connection does: the whole process group, at once."""
        running = [p for p in self.started if p.exit_status is None]
        (agent,) = [p for p in running if any(word.startswith("harness.lab") for word in p.argv)]
        agent.kill()


class SshRoom(Room, SshMachine):
    """One that is reached over SSH; sshd itself is outside."""

    def __init__(self, server: SshServer, namespace: Namespace):
        super().__init__(server.name, Access(ssh_config=server.config))
        self.namespace = namespace

    def start(
        self, argv: Sequence[str], *, cwd: str | Path | None = None, **options: Any
    ) -> Process:
        return super().start(self.inside(argv, cwd), **options)


@dataclass(frozen=True)
class Rooms:
    server: Any
    client: Any

    @property
    def sites(self) -> tuple[Site, Site]:
        return Site("alpha", self.server), Site("beta", self.client)

    def look(self, *programs: str, address: str = "", smp: int = 2, vni: int = 0) -> Pair:
        return pair.look(*self.sites, programs, smp, address, vni)

    def assert_as_before(self) -> None:
        """Nothing of ours is in either, nor will be."""
        deadline = time.monotonic() + PATIENCE_S
        rooms = (self.server, self.client)
        while any(room.has_vxlan() for room in rooms) or self.server.mask() != 1:
            assert time.monotonic() < deadline, "something is left"
            time.sleep(0.1)
        for room in rooms:
            assert room.namespace.devices() == ("lo", NIC)


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """Two hosts with a wire between them; few CPUs, that everything shares."""
    monkeypatch.setattr(payload, "PLACE", str(tmp_path))
    monkeypatch.setattr(pair, "LEAST_CPUS", 2)
    first, second = online_cpus()[:2]
    cpus = CpuPlan(first, (first, second), second)
    monkeypatch.setattr(pair, "cpu_plan", lambda _cpus: cpus)
    with ExitStack() as opened:
        try:
            spaces = [opened.enter_context(Namespace(label)) for label in ("alpha", "beta")]
        except FalconError as error:
            pytest.skip(str(error))
        peer = {"ifname": NIC, "net_ns_fd": spaces[1].fd}
        spaces[0].ip("link", "add", ifname=NIC, kind="veth", peer=peer)
        for space, ip in zip(spaces, (SERVER_IP, CLIENT_IP), strict=True):
            index = space.index(NIC)
            space.ip("addr", "add", index=index, address=ip, prefixlen=24)
            for device in (1, index):
                space.ip("link", "set", index=device, state="up")
        spaces[0].write(RPS, "1")
        yield Rooms(*(opened.enter_context(LocalRoom(space)) for space in spaces))
    deadline = time.monotonic() + PATIENCE_S
    while list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, "a payload is left"
        time.sleep(0.1)


class InPlace(Payload):
    """These very files, which need not be brought: our Python has them compiled already."""

    def __init__(self, machine: LocalMachine, *_: Any):
        self._machine, self._opened = machine, ExitStack()
        self.directory = str(PROJECT)

    def add_tool(self, program: Path) -> None:
        assert program.exists()

    def python(self, *words: str, stdin: Input = None, **_: Any) -> Process:
        return self._machine.start([sys.executable, *words], cwd=PROJECT, stdin=stdin)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "Payload", InPlace)


# ---- measurements -------------------------------------------------------------------------------


def test_patch_free_modes_over_two_hosts(rooms: Rooms) -> None:
    hosts = rooms.look()
    assert (hosts.wire.server_ip, hosts.wire.client_ip) == (SERVER_IP, CLIENT_IP)
    assert hosts.release == os.uname().release and hosts.has_falcon == falcon.is_present()
    names = ("host", "con", "rps-pipe")
    load = UdpLoad(64, flows=2, containers=2)
    with hosts.opened(BOOT) as rig:
        assert rooms.server.has_vxlan() and rooms.client.has_vxlan()
        config = Config(Path(), load, names, rounds=1, seconds=0.3, accel=REAL)
        samples = list(timed.measure(config, rig))
        devices = [room.namespace.devices() for room in (rooms.server, rooms.client)]
        assert devices == [("lo", NIC)] * 2, "no device of ours is in a host's own namespace"
    assert [sample.mode for sample in samples] == list(names)
    assert all(sample.rate > 0 and sample.delivered > 0 for sample in samples)
    rooms.assert_as_before()


@pytest.mark.parametrize("whose", ["server", "client"])
def test_nothing_is_left_when_a_program_is_killed(rooms: Rooms, in_place: None, whose: str) -> None:
    hosts = rooms.look()
    load = UdpLoad(64)
    with pytest.raises(FalconError), hosts.opened(BOOT) as rig:
        rig.server.mode("host", load)
        assert rooms.server.mask() == 3
        flows = rig.flows(load, "con", 0)
        with rig.client.running(load, flows, 100.0, 60):
            getattr(rooms, whose).kill_agent()
            rig.server.counters()
            rig.client.sent(flows)
    rooms.assert_as_before()


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if tools.find("sshd") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("openssh-server is not installed")
    made = SshServer(tmp_path_factory.mktemp("sshd"))
    made.start()
    yield made
    made.stop()


def test_nothing_is_left_when_the_connection_is_lost(
    rooms: Rooms, in_place: None, sshd: SshServer
) -> None:
    """Neither on the hosts, where programs run on and nobody can tell them to end."""
    spaces = (rooms.server.namespace, rooms.client.namespace)
    with ExitStack() as opened:
        far = Rooms(*(opened.enter_context(SshRoom(sshd, space)) for space in spaces))
        hosts = far.look()
        load = UdpLoad(64)
        with pytest.raises(MachineDied), hosts.opened(BOOT) as rig:
            rig.server.mode("host", load)
            assert far.server.mask() == 3
            flows = rig.flows(load, "con", 0)
            with rig.client.running(load, flows, 100.0, 60):
                sshd.drop_connections()
                rig.server.counters()
        far.assert_as_before()
        with hosts.opened(BOOT):
            pass  # it connects anew
        far.assert_as_before()


@needs_programs
@pytest.mark.parametrize(
    "load", [MemcachedLoad(550, flows=2), SockperfTcpLoad(64), WebLoad(4096, flows=2)], ids=str
)
def test_programs_that_hosts_have(rooms: Rooms, in_place: None, load: Load) -> None:
    hosts = rooms.look(*load.programs)
    assert hosts.lack(load.programs) == ""
    with hosts.opened(replace(BOOT, plan=Plan())) as rig:
        config = Config(Path(), load, ("host", "con"), rounds=1, seconds=0.3, accel=REAL)
        for sample in timed.measure(config, rig):
            assert sample.delivered > 0 and sample.errors == 0
    rooms.assert_as_before()


# ---- an overlay that runs already ---------------------------------------------------------------

VNI = dockernet.VNI
QUEUE = "/sys/class/net/{}/queues/rx-0/rps_cpus"


@dataclass(frozen=True)
class Docker:
    """Docker's overlay on both hosts, with masks of somebody's; and what is seen of it."""

    server: dockernet.Half
    client: dockernet.Half

    @property
    def places(self) -> list[tuple[Namespace, str]]:
        return [(half.host, NIC) for half in (self.server, self.client)] + [
            place for half in (self.server, self.client) for place in half.places
        ]

    def masks(self) -> list[int]:
        return [int(space.read(QUEUE.format(device)), 16) for space, device in self.places]

    def all(self) -> list[Any]:
        """Masks; and of each namespace devices, addresses, sockets, and the processes in it."""
        alive = {space: os.fstat(space.fd).st_ino for space, _ in self.places}
        found: list[Any] = [self.masks()]
        for space, inode in alive.items():
            # IPv6's own take their time to come.
            dump = space.ip("addr", "dump", family=socket.AF_INET)
            nets = [(message["index"], message.get("address")) for message in dump]
            tables = [space.read_proc_net(name).splitlines()[1:] for name in ("udp", "tcp")]
            sockets = [line.split()[1:4] for table in tables for line in table]
            found.append((space.devices(), nets, sockets, living_in(inode)))
        return found

    def assert_as(self, before: list[Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (now := self.all()) != before:
            if time.monotonic() > deadline:
                assert now == before
            time.sleep(0.1)

    def came_by_vxlan(self) -> int:
        """Packets that the server's VXLAN device took from the wire."""
        statistics = f"/sys/class/net/{self.server.vxlan}/statistics/rx_packets"
        return int(self.server.hidden.read(statistics))

    def came_to_containers(self) -> list[int]:
        """Datagrams that programs read in each of the server's containers."""
        texts = [space.read_proc_net("snmp") for space in self.server.containers]
        return [snmp.parse(text)["UdpInDatagrams"] for text in texts]


def living_in(inode: int) -> list[str]:
    """The processes in a network namespace; our own is in all of them."""
    found = []
    for place in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            if place.stat().st_ino == inode and place.parts[2] != str(os.getpid()):
                found.append(place.parts[2])
        except OSError:
            continue
    return found


@pytest.fixture
def docker(rooms: Rooms, request: pytest.FixtureRequest) -> Iterator[Docker]:
    """Two containers on the server, one on the client."""
    hosts = [room.namespace for room in (rooms.server, rooms.client)]
    hidden = getattr(request, "param", True)
    with dockernet.joined(hosts, (SERVER_IP, CLIENT_IP), (2, 1), hidden=hidden) as halves:
        made = Docker(*halves)
        for number, (space, device) in enumerate(made.places):
            space.write(QUEUE.format(device), f"{number % 2 + 1:x}")
        yield made


def test_the_overlay_that_runs_is_measured(rooms: Rooms, docker: Docker) -> None:
    before = docker.all()
    hosts = rooms.look(vni=VNI)
    assert (hosts.wire.vni, hosts.containers) == (VNI, 2)
    assert f"the overlay {VNI} that runs there" in hosts.context()["wire"]
    assert str(VNI) not in rooms.look().context()["wire"], "samples of ours stand apart"
    load = UdpLoad(64, flows=2, containers=2)
    names = ("host", "con", "rps-pipe")
    with hosts.opened(BOOT) as rig:
        assert [flow.to_ip for flow in rig.flows(load, "con", 0)] == list(docker.server.ips)
        seen, by_vxlan = docker.came_to_containers(), docker.came_by_vxlan()
        config = Config(Path(), load, names, rounds=1, seconds=0.3, accel=REAL)
        samples = list(timed.measure(config, rig))
        came = [now - then for now, then in zip(docker.came_to_containers(), seen, strict=True)]
        by_vxlan = docker.came_by_vxlan() - by_vxlan
        rig.server.mode("con", load)
        assert docker.masks()[0] == 3 and docker.masks()[2:5] == [3, 3, 3]
    assert [sample.mode for sample in samples] == list(names)
    assert all(sample.rate > 0 and sample.delivered > 0 for sample in samples)
    delivered = sum(sample.delivered for sample in samples[1:])
    # A window that a busy machine was late for is done again.
    assert min(came) > 0 and sum(came) >= delivered, "they went to both containers"
    assert by_vxlan >= delivered, "by the overlay's own VXLAN device"
    docker.assert_as(before)


@pytest.mark.parametrize("docker", [True, False], ids=["hidden", "in sight"], indirect=True)
def test_masks_of_an_overlay_that_is_not_ours_survive_a_kill(
    rooms: Rooms, in_place: None, docker: Docker
) -> None:
    before = docker.all()
    hosts = rooms.look(vni=VNI)
    load = UdpLoad(64)
    with pytest.raises(FalconError), hosts.opened(BOOT) as rig:
        rig.server.mode("con", load)
        changed = docker.masks()
        assert (changed[0], changed[2:5]) == (3, [3, 3, 3])
        flows = rig.flows(load, "con", 0)
        with rig.client.running(load, flows, 100.0, 60):
            rooms.server.kill_agent()
            rig.server.counters()
    docker.assert_as(before)


@needs_programs
def test_tcp_goes_over_the_overlay_that_runs(rooms: Rooms, in_place: None, docker: Docker) -> None:
    load = SockperfTcpLoad(64)
    hosts = rooms.look(*load.programs, vni=VNI)
    by_vxlan = docker.came_by_vxlan()
    with hosts.opened(replace(BOOT, plan=Plan())) as rig:
        config = Config(Path(), load, ("con",), rounds=1, seconds=0.3, accel=REAL)
        (sample,) = timed.measure(config, rig)
    assert sample.delivered > 0 and docker.came_by_vxlan() > by_vxlan


def test_a_port_of_the_containers_own_is_told(rooms: Rooms, in_place: None, docker: Docker) -> None:
    """And left to who has it."""
    hosts = rooms.look(vni=VNI)
    with docker.server.containers[1].socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind(("0.0.0.0", udpflow.PORT))
        before = docker.all()
        told = (
            f"alpha: udpflow does not listen at {docker.server.ips[1]}, port 7000: .*in use;"
            " stop what has that port"
        )
        with pytest.raises(FalconError, match=told), hosts.opened(BOOT) as rig:
            rig.server.mode("con", UdpLoad(64, containers=2))
        docker.assert_as(before)
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.recv(1)


def test_an_overlay_that_cannot_be_measured_is_told(
    rooms: Rooms, in_place: None, docker: Docker
) -> None:
    with pytest.raises(
        FalconError, match=f"alpha: there is no VXLAN overlay with the VNI 7: there is {VNI}$"
    ):
        rooms.look(vni=7)
    hosts = rooms.look(vni=VNI)
    assert hosts.lack_of_containers(2) == "" and rooms.look().lack_of_containers(99) == ""
    assert hosts.lack_of_containers(3) == (
        f"alpha runs 2 containers of the overlay {VNI}, and the load goes to 3"
    )
    many = replace(BOOT, plan=Plan(containers=3))
    with (
        pytest.raises(FalconError, match=f"alpha: 2 containers run .* {VNI}: the load goes to 3"),
        hosts.opened(many),
    ):
        pass
    other = "192.168.80.1"
    room = rooms.server.namespace
    spare = {"ifname": "eth8", "kind": "veth", "peer": {"ifname": "eth9"}}
    room.ip("link", "add", **spare)
    room.ip("addr", "add", index=room.index("eth8"), address=other, prefixlen=24)
    index = rooms.client.namespace.index(NIC)
    rooms.client.namespace.ip("route", "add", dst=f"{other}/32", oif=index)
    with pytest.raises(FalconError, match=f"the overlay {VNI} goes from {NIC} to {NIC}, and"):
        rooms.look(vni=VNI, address=other)
    rooms.look(address=other)  # one of ours may go by it
    docker.client.containers[0].delete(docker.client.devices[0])
    with pytest.raises(FalconError, match=f"beta: no container runs in the overlay {VNI}; start"):
        rooms.look(vni=VNI)


def test_a_container_that_ends_is_told(rooms: Rooms, in_place: None, docker: Docker) -> None:
    """The other devices have their masks back."""
    before = dict(zip(docker.places, docker.masks(), strict=True))
    gone = docker.server.containers[0], docker.server.devices[0]
    told = "alpha: namespace .* has no device eth0; if it was a container that ended, start one"
    with pytest.raises(FalconError, match=told), rooms.look(vni=VNI).opened(BOOT) as rig:
        gone[0].delete(gone[1])
        rig.server.mode("con", UdpLoad(64))
    del before[gone]
    deadline = time.monotonic() + PATIENCE_S
    while any(int(s.read(QUEUE.format(d)), 16) != mask for (s, d), mask in before.items()):
        assert time.monotonic() < deadline, "masks are not back"
        time.sleep(0.1)


def test_what_nobody_lives_in_is_no_container(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what Docker balances a service's load by; other hosts' overlays are not looked at."""
    host, containers = docker.server.host, docker.server.containers
    found = host.call(running.find, VNI)
    assert [ip for _, ip in found.containers] == list(docker.server.ips)
    assert (found.nic.name, found.vxlan.name) == (NIC, docker.server.vxlan)
    dead = os.fstat(containers[0].fd).st_ino
    alive = namespaces.inhabited()
    assert dead in alive
    monkeypatch.setattr(namespaces, "inhabited", lambda: alive - {dead})
    (one,) = host.call(running.find, VNI).containers
    assert one[1] == docker.server.ips[1]


def test_an_overlay_without_another_host_is_told(docker: Docker) -> None:
    hidden = docker.server.hidden
    index = hidden.index(docker.server.vxlan)
    for message in hidden.ip("fdb", "dump", ifindex=index):
        if message.get("dst"):
            hidden.ip("fdb", "del", ifindex=index, lladdr=message.get("lladdr"))
    with pytest.raises(FalconError, match=f"no card is known for the overlay {VNI}: .*; start a"):
        docker.server.host.call(running.find, VNI)


# ---- what is found out --------------------------------------------------------------------------


def test_what_cannot_be_measured_is_said_before_anything_is_set_up(
    rooms: Rooms, in_place: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FalconError, match=f"alpha has no address 192.168.1.1 .*{SERVER_IP}"):
        rooms.look(address="192.168.1.1")
    hosts = rooms.look("cat", "no-such-program")
    assert hosts.lack(["cat"]) == ""
    assert hosts.lack(["cat", "no-such-program"]) == (
        "alpha lacks the program no-such-program; run there: apt-get install no-such-program"
    )
    monkeypatch.setattr(pair, "LEAST_CPUS", 1000)
    with pytest.raises(FalconError, match=r"alpha has \d+ CPUs, which are too few"):
        rooms.look()
    room = rooms.client.namespace
    room.ip("link", "set", index=room.index(NIC), state="down")
    with pytest.raises(FalconError, match="beta knows no way to alpha"):
        rooms.look()


def test_a_firewall_is_named(rooms: Rooms, in_place: None) -> None:
    """What an address that leads nowhere looks like from here."""
    hosts = rooms.look()
    room = rooms.client.namespace
    wrong = {"dst": SERVER_IP, "lladdr": "02:00:00:00:00:99", "state": "permanent"}
    room.ip("neigh", "add", ifindex=room.index(NIC), **wrong)
    told = f"no packet of beta comes to alpha at {SERVER_IP}, UDP port 7000"
    with pytest.raises(FalconError, match=told), hosts.opened(BOOT):
        pass
    rooms.assert_as_before()


def card(ip: str, speed: int = -1, mtu: int = 1500) -> dict[str, Any]:
    return {"ip": ip, "speed": speed, "mtu": mtu, "device": f"card of {ip}", "cpus": [0, 1]}


def test_the_way_is_by_the_fastest_card_of_a_network_in_common() -> None:
    known = {c["ip"]: c for c in (card("10.0.0.1", 1000), card("10.1.0.1", 100_000, 9000))}
    known |= {c["ip"]: c for c in (card("fd00::1", 100_000), card("10.2.0.1", 400_000))}
    ways = [
        {"to": ip, "source": f"to {ip}", "direct": ip != "10.2.0.1", "device": "eth0", "mtu": 9000}
        for ip in known
    ]
    order = [way["to"] for way in pair._preferred(ways, known)]
    assert order == ["10.1.0.1", "fd00::1", "10.0.0.1", "10.2.0.1"]
    wire = pair._wire(ways[0], known["10.0.0.1"])
    assert str(wire) == "to 10.0.0.1 (eth0) to 10.0.0.1 (card of 10.0.0.1), MTU 1500"


def test_an_overlay_is_planned_over_what_is_there() -> None:
    plan = Wire("fd00::2", "eth0", "fd00::1", "eth1", 9000, (0, 1)).plan(3)
    assert (plan.host(0).ip, plan.host(1).ip, plan.outer) == ("fd00::2", "fd00::1", 6)
    assert (plan.containers, plan.container_mtu) == (3, 9000 - 70)
    running = Wire("fd00::2", "eth0", "fd00::1", "eth1", 9000, (0, 1), 4097).plan(3)
    assert (running.vni, running.running, plan.running) == (4097, 4097, 0)
    assert Plan(**json.loads(json.dumps(plan.as_json()))) == plan and plan.vni != Plan().vni
    with pytest.raises(FalconError, match="not IPv4"):
        Plan(client_ip="10.0.0.1", server_ip="fd00::1")


def test_cpus_near_the_card_come_first_and_one_of_each_core(tmp_path: Path) -> None:
    files = {"net/eth0/device/local_cpulist": "4-7\n"}
    for cpu in range(8):  # two nodes of two cores of two threads
        core = cpu // 4 * 4 + cpu % 2
        files[f"cpu/cpu{cpu}/topology/thread_siblings_list"] = f"{core},{core + 2}\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    places = (tmp_path / "net", tmp_path / "cpu")
    assert survey.near_first("eth0", range(8), *places) == [4, 5, 6, 7, 0, 1, 2, 3]
    assert survey.near_first("eth1", range(8), *places) == [0, 1, 4, 5, 2, 3, 6, 7]
    assert survey.near_first("eth0", (5, 6, 7), *places) == [5, 6, 7]


def test_a_host_of_another_kind_is_refused() -> None:
    with pytest.raises(FalconError, match=r"alpha is of another kind .* vax"):
        pair._facts(Site("alpha", LocalMachine()), {"machine": "vax"})

# SPDX-License-Identifier: GPL-2.0-only
"""Which of the kernel's network selftests are run, and what each of them needs.

Chosen: those whose packets cross what Falcon hooks (veth, VXLAN and other tunnels,
GRO, RPS, bridges), and a few of UDP, raw sockets and routing for the rest of the
stack. A script that a kernel does not have yet is absent there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import FalconError


@dataclass(frozen=True)
class Selftest:
    """One script below tools/testing/selftests/net.

    ``commands`` must be installed here; ``helpers`` are the kernel tree's own
    programs ("gro") and BPF objects ("xdp_dummy.bpf.o") that it starts.
    """

    script: str
    arguments: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    timeout_s: float = 300.0

    @property
    def name(self) -> str:
        """The script without its suffix, and its arguments: "forwarding/router", "pmtu -t x"."""
        return " ".join([self.script.removesuffix(".sh"), *self.arguments])


UDP_GSO_XDP = ("udpgso_bench_tx", "udpgso_bench_rx", "xdp_dummy.bpf.o")
FORWARDING = ("jq", "mausezahn", "tcpdump")

CATALOG = (
    # GRO and RPS
    Selftest("gro.sh", commands=("ethtool",), helpers=("gro",), timeout_s=600),
    Selftest("rps_default_mask.sh"),
    Selftest("veth.sh", commands=("ethtool",), helpers=UDP_GSO_XDP),
    Selftest("udpgro.sh", commands=("ethtool", "iptables"), helpers=UDP_GSO_XDP),
    Selftest("udpgro_fwd.sh", commands=("ethtool", "iptables", "jq"), helpers=UDP_GSO_XDP),
    Selftest("udpgro_bench.sh", commands=("ethtool",), helpers=UDP_GSO_XDP),
    # tunnels and bridges
    Selftest("test_vxlan_under_vrf.sh"),
    Selftest("test_vxlan_fdb_changelink.sh"),
    Selftest("test_vxlan_vnifiltering.sh", timeout_s=600),
    Selftest("test_vxlan_nolocalbypass.sh", commands=("jq", "mausezahn")),
    Selftest("test_bridge_backup_port.sh", commands=("jq", "mausezahn")),
    Selftest("fdb_flush.sh"),
    Selftest("l2_tos_ttl_inherit.sh", commands=("tcpdump",), timeout_s=1800),
    Selftest("gre_gso.sh", commands=("socat", "ethtool")),
    Selftest("ip6_gre_headroom.sh"),
    Selftest("forwarding/bridge_vlan_unaware.sh", commands=FORWARDING),
    Selftest("forwarding/bridge_vlan_aware.sh", commands=FORWARDING),
    Selftest("forwarding/router.sh", commands=(*FORWARDING, "smcrouted")),
    Selftest("forwarding/vxlan_asymmetric.sh", commands=(*FORWARDING, "arping"), timeout_s=1200),
    Selftest("forwarding/vxlan_bridge_1d.sh", commands=(*FORWARDING, "dc"), timeout_s=1800),
    # sockets
    Selftest("udpgso.sh", commands=("ethtool",), helpers=("udpgso",)),
    Selftest("msg_zerocopy.sh", helpers=("msg_zerocopy",)),
    Selftest("psock_snd.sh", helpers=("psock_snd",)),
    Selftest("run_afpackettests", helpers=("psock_fanout", "psock_tpacket", "txring_overwrite")),
    Selftest("ip_defrag.sh", helpers=("ip_defrag",), timeout_s=600),
    Selftest("txtimestamp.sh", helpers=("txtimestamp",)),
    # routing
    Selftest("icmp_redirect.sh", timeout_s=900),
    Selftest("route_localnet.sh"),
    Selftest("traceroute.sh", commands=("traceroute",)),
    Selftest("pmtu.sh", ("pmtu_ipv4_vxlan4_exception",), timeout_s=600),
    Selftest("pmtu.sh", ("pmtu_ipv4_br_vxlan4_exception",), timeout_s=600),
)


def select(names: Iterable[str], catalog: tuple[Selftest, ...] = CATALOG) -> tuple[Selftest, ...]:
    """The tests whose script is called so ("gro", "forwarding/router"); all for no name."""
    wanted = list(names)
    known = {name for test in catalog for name in _called(test)}
    for name in wanted:
        if name not in known:
            scripts = dict.fromkeys(test.script.removesuffix(".sh") for test in catalog)
            raise FalconError(
                f"there is no selftest {name} here", f"there are {', '.join(scripts)}"
            )
    return tuple(test for test in catalog if not wanted or set(wanted) & set(_called(test)))


def _called(test: Selftest) -> tuple[str, ...]:
    return test.name, test.script, test.script.removesuffix(".sh")

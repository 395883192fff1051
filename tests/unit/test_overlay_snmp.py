# SPDX-License-Identifier: GPL-2.0-only
"""The protocols' counters, on texts that look like the kernel's."""

from __future__ import annotations

from harness.overlay import snmp

SNMP = """\
Ip: InReceives InDiscards
Ip: 120 3
Udp: InDatagrams NoPorts InErrors
Udp: 100 0 7
"""
SNMP6 = """\
Ip6InReceives                   \t9
Udp6InErrors                    \t2
"""


def test_pairs_of_lines():
    assert snmp.parse(SNMP) == {
        "IpInReceives": 120,
        "IpInDiscards": 3,
        "UdpInDatagrams": 100,
        "UdpNoPorts": 0,
        "UdpInErrors": 7,
    }


def test_a_line_each():
    assert snmp.parse(SNMP6) == {"Ip6InReceives": 9, "Udp6InErrors": 2}


def test_nothing():
    assert snmp.parse("") == {}

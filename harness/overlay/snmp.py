# SPDX-License-Identifier: GPL-2.0-only
"""What the protocols count: /proc/net/snmp, netstat and snmp6.

In: the text of one of these files. Out: its counters, by protocol and name run
together: "UdpInErrors", "TcpExtTCPOFOQueue", "Ip6InDiscards".
"""

from __future__ import annotations


def parse(text: str) -> dict[str, int]:
    """All counters of any of the three files."""
    lines = [line.split() for line in text.splitlines()]
    if lines and not lines[0][0].endswith(":"):
        return {name: int(value) for name, value in lines}  # snmp6: a line each
    return {
        head[0].rstrip(":") + name: int(value)
        for head, row in zip(lines[::2], lines[1::2], strict=True)
        for name, value in zip(head[1:], row[1:], strict=True)
    }

# SPDX-License-Identifier: GPL-2.0-only
"""Makes a veth behave as a network card does.

In: a device of a namespace. Out: the device with a NAPI of its own, which polls
its packets and gives them to GRO; or without an offload.

From the start a veth has no NAPI: its packets go through netif_rx(). It gets
one, on all kernels, with an XDP program, here one that lets everything pass.
Its peer then sends no segment larger than the wire's, as XDP could not take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from harness.overlay import receiving
from harness.overlay.netns import Namespace


def give_napi(namespace: Namespace, device: str) -> None:
    """From now on ``device``, a veth, polls its packets, with GRO. For devices that will go."""
    receiving.set_xdp(namespace, device, "native", on=True)
    receiving.set_offload(namespace, device, "gro", True)


@contextmanager
def polled(namespace: Namespace, device: str) -> Iterator[None]:
    """`give_napi`, and take it away afterwards."""
    gro = receiving.offload(namespace, device, "gro")
    try:
        give_napi(namespace, device)
        yield
    finally:
        receiving.set_offload(namespace, device, "gro", gro)
        receiving.set_xdp(namespace, device, "native", on=False)


@contextmanager
def without(namespace: Namespace, device: str, *names: str) -> Iterator[None]:
    """Switch offloads of ``device`` off, and back afterwards."""
    with ExitStack() as undo:
        for name in names:
            before = receiving.offload(namespace, device, name)
            undo.callback(receiving.set_offload, namespace, device, name, before)
            receiving.set_offload(namespace, device, name, False)
        yield

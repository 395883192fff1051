# SPDX-License-Identifier: GPL-2.0-only
"""Objects that are closed when their context ends.

In: a class with ``close()``. Out: the same, to be used in a ``with`` statement.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Closed at the end of its context, however that ends."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it has; nothing if that was done before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

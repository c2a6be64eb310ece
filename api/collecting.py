"""How seldom a process that runs for long looks for cycles in memory."""

from __future__ import annotations

import gc

COLLECT_AFTER = (20_000, 20, 50)
"""By generation. A look at all there is, with a thousand streams open, stops them all for longer
than a change may take to its reader; a projector's rows form no cycles."""


def collect_seldom() -> None:
    """From here on; what was loaded until now stays and is not looked at again."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)

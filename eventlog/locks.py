"""Classes of advisory locks on which layers that do not import each other have to agree."""

from __future__ import annotations

EXPORT_LOCK = 88
"""With the hash of a projection's name: held in common by whoever reads its tables for minutes, and
alone by whoever exchanges them. An exchange that waited for the tables themselves would have every
short read wait behind it."""
EXPORT_WAIT_MAX_S = 900.0
"""So long an exchange waits for exports to end; new ones are refused meanwhile. They take
`ANNALS_EXPORT_TIMEOUT_S` at the most, 600 s by default."""

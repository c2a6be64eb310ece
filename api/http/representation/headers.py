"""Headers as ASGI has them: pairs of bytes, each name in lower case.

Starlette's Headers decode and compare all of them for each look-up, which is a tenth of the time of
a short request.
"""

from __future__ import annotations

from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]


def value_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first value of a header, None if it is absent."""
    for each, value in headers:
        if each == name:
            return value
    return None


def set_value(headers: RawHeaders, name: bytes, value: bytes) -> None:
    """Replace the values of a header, or add it at the end."""
    found = [index for index, (each, _) in enumerate(headers) if each == name]
    if not found:
        headers.append((name, value))
        return
    headers[found[0]] = (name, value)
    for index in reversed(found[1:]):
        del headers[index]


def add_missing(headers: RawHeaders, others: Iterable[tuple[bytes, bytes]]) -> None:
    """Add those of `others` whose names are absent."""
    present = {name for name, _ in headers}
    headers += [each for each in others if each[0] not in present]

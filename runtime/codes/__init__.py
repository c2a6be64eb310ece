"""The error codes: each has a title for users and an explanation for support.

E1xxx authentication and access, E2xxx validation, E3xxx storage, E4xxx network and time,
E5xxx business rules. A code never changes its meaning. docs/errors.md is generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from runtime.codes.access import *
from runtime.codes.code import ErrorCode
from runtime.codes.exports import *
from runtime.codes.imports import *
from runtime.codes.jobs import *
from runtime.codes.leads import *
from runtime.codes.merging import *
from runtime.codes.network import *
from runtime.codes.realtime import *
from runtime.codes.rules import *
from runtime.codes.sms import *
from runtime.codes.storage import *
from runtime.codes.validation import *

CODES: Mapping[str, ErrorCode] = MappingProxyType(
    dict(
        sorted(
            (each.code, each) for each in list(globals().values()) if isinstance(each, ErrorCode)
        )
    )
)
"""All codes by number, in order."""

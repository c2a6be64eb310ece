"""The dictionary of error codes: what the user is told, and what support needs to know.

E1xxx authentication and access, E2xxx validation, E3xxx storage, E4xxx network and time,
E5xxx business rules. A code keeps its meaning for ever; docs/errors.md is made from this package.
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
"""All codes, in order."""

"""The dictionary of error codes: what the user is told, and what support needs to know.

E1xxx authentication and access, E2xxx validation, E3xxx storage, E4xxx network and time,
E5xxx business rules. A code keeps its meaning for ever; docs/errors.md is made from this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from api.codes.access import *
from api.codes.code import ErrorCode
from api.codes.exports import *
from api.codes.imports import *
from api.codes.jobs import *
from api.codes.leads import *
from api.codes.network import *
from api.codes.rules import *
from api.codes.sms import *
from api.codes.storage import *
from api.codes.validation import *

CODES: Mapping[str, ErrorCode] = MappingProxyType(
    dict(
        sorted(
            (each.code, each) for each in list(globals().values()) if isinstance(each, ErrorCode)
        )
    )
)
"""All codes, in order."""

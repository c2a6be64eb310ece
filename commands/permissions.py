"""Which role may do what: permissions by role, and the permission that changing an entity takes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from domain.api_key import Role
from domain.member import Member
from domain.shared.entity import Entity
from domain.workspace import Workspace


class Permission(StrEnum):
    """What a caller is allowed to do."""

    READ = "read"
    WRITE = "write"
    HISTORY = "history"
    """Read the past: the history of an entity, and reads as of a time."""
    AUDIT = "audit"
    """Read the audit trail of the whole workspace, with IP addresses and user agents."""
    MEMBERS = "members"
    KEYS = "keys"
    WORKSPACE = "workspace"
    PROJECTIONS = "projections"
    """See whether the read tables are current for the caller's workspace, and what is parked."""
    VERIFY = "verify"
    """Have the whole log checked, and see whether it was found whole."""
    OPERATE = "operate"
    """Do and see what spans workspaces: projections, their jobs, lag, health details, metrics."""


PERMISSIONS: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.ADMIN: frozenset(Permission) - {Permission.OPERATE},
        Role.MEMBER: frozenset({Permission.READ, Permission.WRITE, Permission.HISTORY}),
        Role.AUDITOR: frozenset(
            {Permission.READ, Permission.HISTORY, Permission.AUDIT, Permission.VERIFY}
        ),
        Role.ANALYST: frozenset({Permission.READ, Permission.HISTORY, Permission.PROJECTIONS}),
        Role.READ_ONLY: frozenset({Permission.READ}),
        Role.OPERATOR: frozenset({Permission.PROJECTIONS, Permission.VERIFY, Permission.OPERATE}),
    }
)
"""The permissions of each role."""

WRITE_PERMISSIONS: Mapping[type[Entity], Permission] = MappingProxyType(
    {Member: Permission.MEMBERS, Workspace: Permission.WORKSPACE}
)
"""Kinds whose changes take another permission than `WRITE`."""


def write_permission(kind: type[Entity]) -> Permission:
    """Return the permission that creating, changing or undoing an entity of this kind takes."""
    return WRITE_PERMISSIONS.get(kind, Permission.WRITE)

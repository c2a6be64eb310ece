"""Types of route parameters that several routes share."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path

from api.dependencies.idempotency import IdempotentExecutor, idempotent_executor
from api.dependencies.request import services_of
from api.dependencies.services import Services
from api.http.auth import Caller, require_permission
from api.http.bodies import Body, require_body
from api.http.conditions import if_match
from api.http.openapi.examples import EXAMPLE_ID
from commands.permissions import Permission
from runtime.patches import JSON_TYPE, PATCH_TYPES

ServicesDep = Annotated[Services, Depends(services_of)]
Executor = Annotated[IdempotentExecutor, Depends(idempotent_executor)]

Reader = Annotated[Caller, Depends(require_permission(Permission.READ))]
HistoryReader = Annotated[Caller, Depends(require_permission(Permission.HISTORY))]
Auditor = Annotated[Caller, Depends(require_permission(Permission.AUDIT))]
Writer = Annotated[Caller, Depends(require_permission(Permission.WRITE))]
KeyAdmin = Annotated[Caller, Depends(require_permission(Permission.KEYS))]
WorkspaceAdmin = Annotated[Caller, Depends(require_permission(Permission.WORKSPACE))]
ProjectionReader = Annotated[Caller, Depends(require_permission(Permission.PROJECTIONS))]
Verifier = Annotated[Caller, Depends(require_permission(Permission.VERIFY))]
Operator = Annotated[Caller, Depends(require_permission(Permission.OPERATE))]

EntityId = Annotated[UUID, Path(alias="id", examples=[EXAMPLE_ID])]
Versions = Annotated[list[int] | None, Depends(if_match)]
"""The versions in If-Match; None if every version is accepted."""
JsonBody = Annotated[Body, Depends(require_body(JSON_TYPE))]
PatchBody = Annotated[Body, Depends(require_body(*PATCH_TYPES))]

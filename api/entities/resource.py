"""One kind of entity as its routes describe and serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.http.openapi.examples import EXAMPLE_ID, EXAMPLE_TIME
from commands.permissions import Permission, write_permission
from domain.shared.entity import Entity
from readmodels.spec import ListSpec
from runtime import codes
from runtime.codes.code import ErrorCode


@dataclass(frozen=True)
class EntityResource:
    """One kind of entity as the API serves it."""

    kind: type[Entity]
    example: Mapping[str, Any]
    """Valid fields of a new entity, for the description."""
    reads: tuple[str, ...]
    """The projections that lists and reads of this kind depend on."""
    spec: ListSpec

    @property
    def name(self) -> str:
        """`Account`."""
        return self.kind.__name__

    @property
    def plural_name(self) -> str:
        """`Accounts`."""
        return self.kind.PLURAL.capitalize()

    @property
    def noun(self) -> str:
        """`an account`."""
        return ("an " if self.kind.KIND[0] in "aeiou" else "a ") + self.kind.KIND

    @property
    def write_permission(self) -> Permission:
        """The permission that is required to write an entity of this kind."""
        return write_permission(self.kind)

    @property
    def creation_errors(self) -> list[ErrorCode]:
        """Errors of creating or restoring an entity that other entities cause."""
        of_account = [codes.ACCOUNT_UNAVAILABLE] if self.kind.BELONGS_TO_ACCOUNT else []
        return [*of_account, *self.claim_errors]

    @property
    def claim_errors(self) -> list[ErrorCode]:
        """Errors of claiming time slots. Restoring an account also restores its appointments."""
        may_claim = self.kind.CLAIMS_TIME or self.kind.KIND == "account"
        return [codes.TIME_TAKEN] if may_claim else []

    def example_response(self) -> dict[str, Any]:
        """Return an example of an entity as responses to writes show it."""
        return example_response(self.kind, self.example)

    def example_item(self) -> dict[str, Any]:
        """Return an example of an entity as lists and reads show it."""
        shown = self.example_response()
        counts = {name: 0 for name in self.spec.items if name.endswith("Count")}
        return {**dict.fromkeys(self.spec.items), **counts, **shown}


def example_response(kind: type[Entity], example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example of an entity with these fields as responses show it."""
    account = {"accountId": None} if kind.BELONGS_TO_ACCOUNT else {}
    fields = {
        field.alias or name: None if field.is_required() else field.default
        for name, field in kind.FIELDS.model_fields.items()
    }
    dated = {"statusChangedAt": EXAMPLE_TIME} if kind.HAS_STATUS_DATE else {}
    stamps = {"createdAt": EXAMPLE_TIME, "updatedAt": EXAMPLE_TIME, "version": 1}
    return {"id": EXAMPLE_ID, **account, **fields, "customFields": {}, **dated, **example, **stamps}

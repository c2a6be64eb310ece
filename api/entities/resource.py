"""What is particular to one kind, for the routes that all kinds have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.http.auth import Permission
from api.http.openapi import EXAMPLE_ID, EXAMPLE_TIME
from domain.shared.entity import Entity
from readmodels.spec import ListSpec
from runtime import codes
from runtime.codes.code import ErrorCode


@dataclass(frozen=True)
class EntityResource:
    """What the routes of one kind have to know."""

    kind: type[Entity]
    example: Mapping[str, Any]
    """Fields that make a valid new one, as the description shows them."""
    reads: tuple[str, ...]
    """The projections behind lists and reads."""
    write: Permission
    """What changing one takes."""
    spec: ListSpec

    @property
    def name(self) -> str:
        """`Account`."""
        return self.kind.__name__

    @property
    def names(self) -> str:
        """`Accounts`."""
        return self.kind.PLURAL.capitalize()

    @property
    def a_name(self) -> str:
        """`an account`."""
        return ("an " if self.kind.KIND[0] in "aeiou" else "a ") + self.kind.KIND

    @property
    def links(self) -> list[ErrorCode]:
        """How coming to be may be refused for what there is besides."""
        of_account = [codes.ACCOUNT_UNAVAILABLE] if self.kind.BELONGS_TO_ACCOUNT else []
        return [*of_account, *self.claims]

    @property
    def claims(self) -> list[ErrorCode]:
        """How taking time may be refused; an account brings back what hung on it."""
        may_claim = self.kind.CLAIMS_TIME or self.kind.KIND == "account"
        return [codes.TIME_TAKEN] if may_claim else []

    def shown(self) -> dict[str, Any]:
        """An example of one as answers show it."""
        return example_as_shown(self.example)


def example_as_shown(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example of one with these fields, as answers show it."""
    stamps = {"createdAt": EXAMPLE_TIME, "updatedAt": EXAMPLE_TIME, "version": 1}
    return {"id": EXAMPLE_ID, **example, **stamps}

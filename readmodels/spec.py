"""How a list is described: its table, what an item shows, and by what it is filtered and sorted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NAME_OF_MEMBER = """(SELECT m.name FROM read.members m
                   WHERE m.workspace_id = t.workspace_id AND m.id = t.{column})"""
MEMBER_NAME = NAME_OF_MEMBER.format(column="assigned_to")
ACCOUNT_NAME = """(SELECT a.company FROM read.accounts a
                    WHERE a.workspace_id = t.workspace_id AND a.id = t.account_id)"""


@dataclass(frozen=True)
class Sort:
    """An order: columns that are never null, each with its type; the id comes last by itself."""

    columns: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """The columns and types that make the order total."""
        return (*self.columns, ("id", "uuid"))


CREATED = Sort((("created_at", "timestamptz"),))
UPDATED = Sort((("updated_at", "timestamptz"),))


@dataclass(frozen=True)
class ListSpec:
    """A list that can be asked for.

    `items` maps names on the wire to SQL over the row `t`; `filters` names on the wire to columns.
    Filters in `counted` are dimensions of the counts table, so that totals need no counting.
    """

    plural: str
    items: Mapping[str, str]
    filters: Mapping[str, tuple[str, str]]
    counts_table: str
    counted: frozenset[str]
    sorts: Mapping[str, Sort]
    search: str
    """The function that finds ids by a pattern."""
    search_inline: str
    """The same condition for patterns too short for the index, over the row `t`."""
    base: str = "true"
    """What every row of the list satisfies, over `t`; columns of it are in the counts table."""
    stats: Mapping[str, str] = field(default_factory=dict)
    """Aggregations: SQL that gives one JSON value, by name on the wire."""
    with_contacts: bool = False

    @property
    def table(self) -> str:
        """The read table."""
        return f"read.{self.plural}"

    @property
    def searchable(self) -> bool:
        """Every list can be searched."""
        return bool(self.search)


def columns(*names: str) -> dict[str, str]:
    """Items that are plain columns: `a_b` is shown as `aB`."""
    return {camel(name): f"t.{name}" for name in names}


def camel(name: str) -> str:
    """`next_action` as the wire has it: `nextAction`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def money(*names: str) -> dict[str, str]:
    """Items that are amounts: decimal strings."""
    return {camel(name): f"t.{name}::text" for name in names}


STAMPS = {
    **columns("assigned_to"),
    "assignedToName": MEMBER_NAME,
    **columns("custom_fields", "created_at", "updated_at", "version"),
}
"""What every item ends with."""

OF_ACCOUNT = {"accountId": "t.account_id", "accountName": ACCOUNT_NAME}

ASSIGNEE = {"assignedTo": ("assigned_to", "uuid")}
ACCOUNT = {"accountId": ("account_id", "uuid")}


def count_by(counts_table: str, column: str, *, where: str = "true") -> str:
    """An aggregation: how many rows there are by one dimension of a counts table."""
    return f"""
        SELECT coalesce(json_object_agg(k, n ORDER BY k), '{{}}') FROM (
            SELECT {column} AS k, sum(n)::bigint AS n FROM read.{counts_table}
             WHERE workspace_id = %(workspace)s AND {where}
             GROUP BY {column} HAVING sum(n) <> 0) AS by_{column}"""

"""How a list is declared: its table, its items, filters, orders and aggregations.

Also the SQL of an item, which lists, details, duplicates and exports share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic.alias_generators import to_camel

MEMBER_NAME = """(SELECT m.name FROM read.members m
                   WHERE m.workspace_id = t.workspace_id AND m.id = t.{column})"""
ACCOUNT_NAME = """(SELECT a.company FROM read.accounts a
                    WHERE a.workspace_id = t.workspace_id AND a.id = t.account_id)"""

CONTACTS_PER_ITEM_MAX = 100
CONTACTS = f"""(
    SELECT coalesce(json_agg(row_to_json(c)), '[]') FROM (
        SELECT c.id, c.name, c.email, c.phone, c.title, c.version FROM read.contacts c
         WHERE c.workspace_id = t.workspace_id AND c.account_id = t.id
         ORDER BY c.created_at, c.id LIMIT {CONTACTS_PER_ITEM_MAX}) AS c)"""

# What an item takes from another table, such as the name of a member, is a subselect. Where many
# items are read it is joined instead: PostgreSQL then remembers the results (Memoize) and does not
# execute it again for each row. A lateral subquery with OFFSET 0 is joined by a nested loop, which
# keeps the order of the rows.
SUBSELECT = "(SELECT"
JOIN = " LEFT JOIN LATERAL (SELECT {subselect} AS value OFFSET 0) AS {alias} ON true"

WHOLE_TABLE = "true"
"""The condition of a list that shows every row of its table."""

Column = tuple[str, str]
"""A column and its type."""


@dataclass(frozen=True)
class Sort:
    """An order by columns that are never null; the id is added to make it total."""

    columns: tuple[Column, ...]

    @classmethod
    def by(cls, *columns: Column) -> Sort:
        """An order by these columns."""
        return cls(columns)

    @property
    def keys(self) -> tuple[Column, ...]:
        """The columns that make the order total."""
        return (*self.columns, ("id", "uuid"))


CREATED_AT = ("created_at", "timestamptz")
UPDATED_AT = ("updated_at", "timestamptz")
COMMON_SORTS = {"created_at": Sort.by(CREATED_AT), "updated_at": Sort.by(UPDATED_AT)}


@dataclass(frozen=True)
class ListSpec:
    """The declaration of a list.

    `items` maps wire names to SQL over the row `t`, `filters` wire names to columns. Filters in
    `counted` are dimensions of the counts table, so that totals need no counting.
    """

    plural: str
    items: Mapping[str, str]
    filters: Mapping[str, Column]
    counts_table: str
    counted: frozenset[str]
    sorts: Mapping[str, Sort]
    search_inline: str
    """The search condition over the row `t`, without the index."""
    joins_texts: bool = False
    """A column has all searched texts, a line each, in the form of `joinable`."""
    scattered: frozenset[str] = frozenset()
    """Filters whose rows no index has in the order of creation."""
    base: str = WHOLE_TABLE
    """A condition over `t` that selects the rows of the list. It uses only columns that the counts
    table has too."""
    stats: Mapping[str, str] = field(default_factory=dict)
    """Aggregations by wire name: SQL that gives one JSON value."""
    with_contacts: bool = False
    totals_table: str | None = None
    """The table with the number of all rows of the list, where the counts table may have many."""

    @property
    def table(self) -> str:
        """The read table."""
        return f"read.{self.plural}"

    @property
    def search(self) -> str:
        """The SQL function that finds ids by a pattern, through the index."""
        return f"read.search_{self.plural}"


def columns(*names: str) -> dict[str, str]:
    """Items that show a column: `next_action` as `nextAction`."""
    return {to_camel(name): f"t.{name}" for name in names}


def money(*names: str) -> dict[str, str]:
    """Items that show an amount as a decimal string."""
    return {to_camel(name): f"t.{name}::text" for name in names}


def member_name(column: str) -> str:
    """SQL for the name of the member whose id is in a column."""
    return MEMBER_NAME.format(column=column)


COMMON_ITEMS = {
    **columns("assigned_to"),
    "assignedToName": member_name("assigned_to"),
    **columns("custom_fields", "created_at", "updated_at", "version"),
}
"""The last items of every list."""

NO_FILTERS: Mapping[str, Column] = MappingProxyType({})


def entity_list(
    plural: str,
    items: Mapping[str, str],
    *,
    of_account: bool = True,
    filters: Mapping[str, Column] = NO_FILTERS,
    counted: Mapping[str, Column] = NO_FILTERS,
    counts_table: str,
    sorts: Mapping[str, Sort],
    search_inline: str,
    joins_texts: bool = False,
    scattered: frozenset[str] = frozenset(),
    stats: Mapping[str, str] | None = None,
    with_contacts: bool = False,
    totals_table: str | None = None,
) -> ListSpec:
    """Declare a list of entities that can be assigned to a member.

    It shows the id, with `of_account` the account, then `items` and COMMON_ITEMS. It can be
    filtered by account, `filters`, `counted` and assignee, of which `counted` and the assignee are
    dimensions of the counts table, and sorted by `sorts` and COMMON_SORTS.
    """
    account = {"accountId": "t.account_id", "accountName": ACCOUNT_NAME} if of_account else {}
    account_filter = {"accountId": ("account_id", "uuid")} if of_account else {}
    counted = {**counted, "assignedTo": ("assigned_to", "uuid")}
    return ListSpec(
        plural=plural,
        items={**columns("id"), **account, **items, **COMMON_ITEMS},
        filters={**account_filter, **filters, **counted},
        counts_table=counts_table,
        counted=frozenset(counted),
        sorts={**sorts, **COMMON_SORTS},
        search_inline=search_inline,
        joins_texts=joins_texts,
        scattered=scattered,
        stats=stats or {},
        with_contacts=with_contacts,
        totals_table=totals_table,
    )


def by_text(*names: str) -> dict[str, Column]:
    """Filters by text columns of the same name."""
    return {name: (name, "text") for name in names}


def count_by(counts_table: str, column: str, *, where: str = "true") -> str:
    """An aggregation: the number of rows by one dimension of a counts table."""
    return f"""
        SELECT coalesce(json_object_agg(k, n ORDER BY k), '{{}}') FROM (
            SELECT {column} AS k, sum(n)::bigint AS n FROM read.{counts_table}
             WHERE workspace_id = entered.workspace AND {where}
             GROUP BY {column} HAVING sum(n) <> 0) AS by_{column}"""


def joined(items: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Items whose subselects over `t` are replaced by joins, and the joins, which follow `t`."""
    replaced, joins = dict(items), ""
    for n, (name, item) in enumerate(items.items()):
        if item.startswith(SUBSELECT):
            joins += JOIN.format(subselect=item, alias=f"j{n}")
            replaced[name] = f"j{n}.value"
    return replaced, joins


def item_sql(
    items: Mapping[str, str], *, with_contacts: bool, more: Mapping[str, str] = MappingProxyType({})
) -> str:
    """SQL for one item over the row `t`, with `more` properties by wire name."""
    contacts = {"contacts": CONTACTS} if with_contacts else {}
    values = ", ".join(
        f'{expression} AS "{name}"' for name, expression in {**items, **contacts, **more}.items()
    )
    return f"(SELECT row_to_json(item) FROM (SELECT {values}) AS item)"

"""Opportunities, with the pipeline by stage."""

from __future__ import annotations

from readmodels.spec import (
    ACCOUNT,
    ASSIGNEE,
    CREATED,
    OF_ACCOUNT,
    STAMPS,
    UPDATED,
    ListSpec,
    Sort,
    columns,
    money,
)

BY_STAGE = """
    SELECT coalesce(json_object_agg(stage, json_build_object('count', n, 'value', value::text)
                                    ORDER BY stage), '{}')
      FROM (SELECT stage, sum(n)::bigint AS n, sum(value)::numeric(30,2) AS value
              FROM read.opportunity_counts WHERE workspace_id = %(workspace)s
             GROUP BY stage HAVING sum(n) <> 0) AS by_stage"""

SPEC = ListSpec(
    plural="opportunities",
    items={
        **columns("id"),
        **OF_ACCOUNT,
        **columns("name", "stage"),
        **money("value"),
        **columns("engaged_on", "expected_close_on", "closed_on"),
        **STAMPS,
    },
    filters={**ACCOUNT, "stage": ("stage", "text"), **ASSIGNEE},
    counts_table="opportunity_counts",
    counted=frozenset({"stage", "assignedTo"}),
    sorts={
        "name": Sort((("name_key", "text"),)),
        "stage": Sort((("stage", "text"), ("created_at", "timestamptz"))),
        "created_at": CREATED,
        "updated_at": UPDATED,
    },
    search="read.search_opportunities",
    search_inline="t.name ILIKE %(pattern)s",
    stats={"byStage": BY_STAGE},
)

"""The list of opportunities, with the pipeline by stage."""

from __future__ import annotations

from readmodels.spec import CREATED_AT, Sort, by_text, columns, entity_list, money

BY_STAGE = """
    SELECT coalesce(json_object_agg(stage, json_build_object('count', n, 'value', value::text)
                                    ORDER BY stage), '{}')
      FROM (SELECT stage, sum(n)::bigint AS n, sum(value)::numeric(30,2) AS value
              FROM read.opportunity_counts WHERE workspace_id = entered.workspace
             GROUP BY stage HAVING sum(n) <> 0) AS by_stage"""

SPEC = entity_list(
    "opportunities",
    {
        **columns("name", "stage"),
        **money("value"),
        **columns("engaged_on", "expected_close_on", "closed_on"),
    },
    counted=by_text("stage"),
    counts_table="opportunity_counts",
    sorts={
        "name": Sort.by(("name_key", "text")),
        "stage": Sort.by(("stage", "text"), CREATED_AT),
    },
    search_inline="t.name_folded LIKE %(pattern)s",
    stats={"byStage": BY_STAGE},
)

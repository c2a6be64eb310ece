"""Before and after, read out of an event's data by PostgreSQL: SQL over a row `e` of `events`."""

from __future__ import annotations

CHANGES = """
CASE
    WHEN e.data->'changes' IS NOT NULL THEN (
        SELECT coalesce(json_agg(json_build_object(
                   'field', c.key, 'before', c.value->'before', 'after', c.value->'after')), '[]')
          FROM json_each(e.data->'changes') AS c
         WHERE c.key <> 'secretSha256')
    WHEN e.data->'after' IS NOT NULL THEN json_build_array(json_build_object(
        'field', CASE WHEN e.topic LIKE '%%.stage_changed' THEN 'stage' ELSE 'status' END,
        'before', e.data->'before', 'after', e.data->'after'))
    ELSE (
        SELECT coalesce(json_agg(json_build_object(
                   'field', f.key,
                   'before', CASE WHEN gone THEN f.value END,
                   'after', CASE WHEN NOT gone THEN f.value END)), '[]')
          FROM json_each(e.data->'fields') AS f,
               (SELECT e.topic LIKE '%%.deleted' OR e.topic LIKE '%%.revoked' AS gone) AS g
         WHERE f.key <> 'secretSha256')
END"""
"""A JSON array of `{field, before, after}`: what the event says was so before, and is so after.

In statements with parameters: percent signs are doubled.
"""

DETAILS = """
json_strip_nulls(json_build_object(
    'mergedInto', e.data->>'mergedInto', 'merged', e.data->>'other', 'moved', e.data->'moved',
    'movedFrom', e.data->>'movedFrom', 'movedTo', e.data->>'movedTo',
    'deletedWith', e.data->>'deletedWith'))"""
"""A JSON object of what else the event says: where a thing went and what came."""

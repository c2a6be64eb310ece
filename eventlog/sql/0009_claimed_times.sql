-- Claimed times: the time slots that entities hold. The transaction that appends the events writes
-- them too, so that a decision about overlaps need not wait for a read table.

CREATE TABLE claimed_times (
    workspace_id uuid        NOT NULL,
    entity_id    uuid        NOT NULL,
    holder_id    uuid        NOT NULL,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL,
    may_overlap  boolean     NOT NULL,
    PRIMARY KEY (workspace_id, entity_id),
    -- Bounds the search: a claim that overlaps a time begins at most this long before it.
    CHECK (ends_at > starts_at AND ends_at - starts_at <= interval '7 days')
);
CREATE INDEX ON claimed_times (workspace_id, holder_id, starts_at);
COMMENT ON COLUMN claimed_times.entity_id IS 'What takes the time: an appointment.';
COMMENT ON COLUMN claimed_times.holder_id IS 'Whose time it is: a member.';
COMMENT ON COLUMN claimed_times.may_overlap IS 'Whether it was allowed to lie beside others.';

ALTER TABLE claimed_times ENABLE ROW LEVEL SECURITY;
ALTER TABLE claimed_times FORCE ROW LEVEL SECURITY;
CREATE POLICY own_workspace ON claimed_times TO annals_app
    USING (workspace_id = current_workspace())
    WITH CHECK (workspace_id = current_workspace());
GRANT SELECT, INSERT, UPDATE, DELETE ON claimed_times TO annals_app;


-- Replaces the claims of entities; an entity without a holder claims nothing any more. Returns the
-- conflicts of claims that may not overlap, upon which the caller rolls back. A claim within the
-- entity's previous one is not checked again. Until the transaction ends, no other transaction can
-- claim time of the same holders; holders are locked in one order, which prevents deadlocks.
CREATE FUNCTION claim_times(workspace uuid, batch json)
RETURNS TABLE (entity_id uuid, taken_by uuid, taken_from timestamptz, taken_until timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock(90, holders.key)
       FROM (SELECT DISTINCT hashtext(workspace::text || c.holder::text) AS key
               FROM json_to_recordset(batch) AS c(holder uuid)
              WHERE c.holder IS NOT NULL ORDER BY 1) AS holders;
    -- A separate statement, so that it sees what the previous holder of the lock has committed.
    RETURN QUERY
    WITH wanted AS MATERIALIZED (
        SELECT * FROM json_to_recordset(batch)
            AS c(entity uuid, holder uuid, starts timestamptz, ends timestamptz, may_overlap boolean)
    ), given_up AS (
        DELETE FROM claimed_times AS t USING wanted AS w
         WHERE t.workspace_id = workspace AND t.entity_id = w.entity AND w.holder IS NULL
    ), taken AS (
        INSERT INTO claimed_times AS t
               (workspace_id, entity_id, holder_id, starts_at, ends_at, may_overlap)
        SELECT workspace, w.entity, w.holder, w.starts, w.ends, w.may_overlap
          FROM wanted AS w WHERE w.holder IS NOT NULL
            ON CONFLICT (workspace_id, entity_id) DO UPDATE
           SET holder_id = excluded.holder_id, starts_at = excluded.starts_at,
               ends_at = excluded.ends_at, may_overlap = excluded.may_overlap
         WHERE (t.holder_id, t.starts_at, t.ends_at, t.may_overlap)
               <> (excluded.holder_id, excluded.starts_at, excluded.ends_at, excluded.may_overlap)
    )
    -- All parts of a statement see the table as it was before, so the new claims are added here.
    SELECT w.entity, other.entity, other.starts, other.ends
      FROM wanted AS w
      LEFT JOIN claimed_times AS had
        ON had.workspace_id = workspace AND had.entity_id = w.entity AND had.holder_id = w.holder
       AND had.starts_at <= w.starts AND had.ends_at >= w.ends
       AND (w.may_overlap OR NOT had.may_overlap)
     CROSS JOIN LATERAL (
           SELECT t.entity_id AS entity, t.starts_at AS starts, t.ends_at AS ends
             FROM claimed_times AS t
            WHERE t.workspace_id = workspace AND t.holder_id = w.holder
              AND t.starts_at < w.ends AND t.starts_at > w.starts - interval '7 days'
              AND t.ends_at > w.starts AND t.entity_id NOT IN (SELECT entity FROM wanted)
            UNION ALL
           SELECT o.entity, o.starts, o.ends
             FROM wanted AS o
            WHERE o.holder = w.holder AND o.entity <> w.entity
              AND o.starts < w.ends AND o.ends > w.starts) AS other
     WHERE w.holder IS NOT NULL AND NOT w.may_overlap AND had.entity_id IS NULL
     ORDER BY w.entity, other.starts, other.entity;
END $$;

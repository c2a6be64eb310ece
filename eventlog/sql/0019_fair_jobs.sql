-- The open jobs of a workspace, however many, hide those of no other from the workers.
CREATE OR REPLACE FUNCTION jobs_to_do(works text[], most integer)
RETURNS TABLE (workspace_id uuid, job_id uuid, work text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT ranked.workspace_id, ranked.job_id, ranked.work
      FROM (SELECT o.workspace_id, o.job_id, o.work, o.turn_at,
                   row_number() OVER (PARTITION BY o.workspace_id ORDER BY o.turn_at) AS place
              FROM open_jobs AS o WHERE o.work = ANY(works)) AS ranked
     ORDER BY ranked.place, ranked.turn_at LIMIT most
$$;
COMMENT ON FUNCTION jobs_to_do IS
    'Open jobs of these kinds of work: the first of each workspace, then the second ones, and so on.';

-- Projections whose tables are damaged: what is wrong with them, checks of their rows, and rebuilds
-- that replace tables although the rows differ.

ALTER TABLE projections ADD COLUMN problem text NOT NULL DEFAULT '';
COMMENT ON COLUMN projections.problem IS 'Why its projector cannot apply events to its tables; empty if it can.';

ALTER TABLE projection_rebuilds
    ADD COLUMN replaces boolean NOT NULL DEFAULT false,
    ADD COLUMN reason   text    NOT NULL DEFAULT '';
COMMENT ON COLUMN projection_rebuilds.replaces IS 'The rebuilt rows replace the live ones without a comparison.';
COMMENT ON COLUMN projection_rebuilds.reason IS 'Why, in the words of the operator who asked for it.';

ALTER TABLE projection_rebuilds DROP CONSTRAINT projection_rebuilds_kind_check;
ALTER TABLE projection_rebuilds ADD CONSTRAINT projection_rebuilds_kind_check
    CHECK (kind IN ('rebuild', 'rollback', 'retry', 'verify'));

-- As the function of five arguments, which processes of the previous version call.
CREATE FUNCTION request_projection_job(
    asked_projection text, asked_kind text, asked_version text, throttle double precision,
    asked_by text, asked_replaces boolean, asked_reason text
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    job bigint := request_projection_job(
        asked_projection, asked_kind, asked_version, throttle, asked_by);
BEGIN
    UPDATE projection_rebuilds SET replaces = asked_replaces, reason = asked_reason WHERE id = job;
    RETURN job;
END $$;
GRANT EXECUTE ON FUNCTION request_projection_job(
    text, text, text, double precision, text, boolean, text) TO annals_app, annals_projector;

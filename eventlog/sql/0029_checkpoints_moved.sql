-- Fails the batch of a projector whose checkpoints do not all stand where the batch began, because
-- another process has moved one. The server checks it, so that a batch takes one round trip.

CREATE FUNCTION require_moved(moved bigint, expected integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF moved <> expected THEN
        RAISE EXCEPTION '% of % checkpoints stand where the batch began', moved, expected
            USING ERRCODE = 'serialization_failure';
    END IF;
END $$;

REVOKE EXECUTE ON FUNCTION require_moved FROM PUBLIC;
GRANT EXECUTE ON FUNCTION require_moved TO annals_projector;

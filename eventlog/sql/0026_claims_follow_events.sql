-- A claimed time changes only together with an event of the entity that claims it, so that the
-- password of the API's role cannot free or take a member's time without a trace in the log.

-- The check is deferred, because claims are written before the events: a writer must not hold
-- positions while it waits for the time of a member. The tolerance covers a clock that is set back.
CREATE FUNCTION require_event_of_claim() RETURNS trigger LANGUAGE plpgsql
SET search_path = public, pg_temp AS $$
DECLARE
    owner    oid  := (SELECT c.relowner FROM pg_class AS c WHERE c.oid = TG_RELID);
    claimant uuid := CASE TG_OP WHEN 'DELETE' THEN OLD.entity_id ELSE NEW.entity_id END;
    last     timestamptz;
BEGIN
    -- The owner repairs claims (annals mend-claims).
    IF pg_has_role(current_user, owner, 'MEMBER') THEN
        RETURN NULL;
    END IF;
    SELECT e.recorded_at INTO last FROM events AS e
     WHERE e.stream_id = claimant ORDER BY e.stream_version DESC LIMIT 1;
    IF last IS NULL OR last < transaction_timestamp() - interval '1 second' THEN
        RAISE EXCEPTION 'the claimed time of % changes only with an event of it', claimant
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.entity_id <> OLD.entity_id THEN
        RAISE EXCEPTION 'a claimed time does not pass to another entity'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER claims_follow_events
    AFTER INSERT OR UPDATE OR DELETE ON claimed_times
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_event_of_claim();
ALTER TABLE claimed_times ENABLE ALWAYS TRIGGER claims_follow_events;

CREATE POLICY owner_repairs ON claimed_times TO CURRENT_USER USING (true) WITH CHECK (true);

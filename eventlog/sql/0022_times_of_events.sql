-- An event does not occur after it was recorded, whatever clock the client that records it has.

-- The time of the stream's last event is kept to, so that the events of an entity stay in order
-- after the server's own clock was set back.
CREATE FUNCTION limit_occurred_at() RETURNS trigger LANGUAGE plpgsql
SET search_path = public, pg_temp AS $$
BEGIN
    NEW.occurred_at := greatest(NEW.recorded_at,
        (SELECT e.occurred_at FROM events AS e
          WHERE e.stream_id = NEW.stream_id ORDER BY e.stream_version DESC LIMIT 1));
    RETURN NEW;
END $$;

CREATE TRIGGER events_occur_before_they_are_recorded
    BEFORE INSERT ON events
    FOR EACH ROW WHEN (NEW.occurred_at > NEW.recorded_at)
    EXECUTE FUNCTION limit_occurred_at();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_occur_before_they_are_recorded;

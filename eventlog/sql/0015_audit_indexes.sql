-- Finds the entries of the audit trail: by kind and action, by actor, key, command, and time.
-- transactional: false

DROP INDEX CONCURRENTLY IF EXISTS events_by_action;
CREATE INDEX CONCURRENTLY events_by_action ON events (workspace_id, action_topic, position);

DROP INDEX CONCURRENTLY IF EXISTS events_by_actor;
CREATE INDEX CONCURRENTLY events_by_actor ON events (workspace_id, actor_id, action_topic, position);

DROP INDEX CONCURRENTLY IF EXISTS events_by_key;
CREATE INDEX CONCURRENTLY events_by_key ON events (workspace_id, api_key_id, position)
    WHERE api_key_id IS NOT NULL;

DROP INDEX CONCURRENTLY IF EXISTS events_by_command;
CREATE INDEX CONCURRENTLY events_by_command ON events (workspace_id, command_id, position)
    WHERE command_id IS NOT NULL;

DROP INDEX CONCURRENTLY IF EXISTS events_by_time;
CREATE INDEX CONCURRENTLY events_by_time ON events (workspace_id, recorded_at);

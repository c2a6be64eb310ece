-- Events of API keys take the secret of an admin key, so a stolen password of annals_app cannot issue
-- one. The owner issues the first key of a workspace and the keys of operators (docs/adr/0022).

-- The workspace of operator keys is the nil UUID. Nothing of a tenant can be recorded in it.
CREATE POLICY no_keys ON events AS RESTRICTIVE FOR INSERT TO annals_app, annals_sender
    WITH CHECK (topic NOT LIKE 'api\_key.%'
                AND workspace_id <> '00000000-0000-0000-0000-000000000000');
CREATE POLICY owner_writes_keys ON events FOR INSERT TO CURRENT_USER
    WITH CHECK (topic LIKE 'api\_key.%');

-- The state is folded from the log, so it needs no projection and is never late.
CREATE FUNCTION is_live_admin_key(workspace uuid, key_id uuid, secret text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    event  record;
    fields jsonb := '{}';
BEGIN
    FOR event IN SELECT e.topic, e.data::jsonb AS data FROM events AS e
                  WHERE e.workspace_id = workspace AND e.stream_id = key_id
                  ORDER BY e.stream_version LOOP
        CASE event.topic
            WHEN 'api_key.issued' THEN
                fields := event.data->'fields';
            WHEN 'api_key.updated' THEN
                fields := fields || (SELECT coalesce(jsonb_object_agg(c.key, c.value->'after'), '{}')
                                       FROM jsonb_each(event.data->'changes') AS c);
            ELSE  -- revoked, or an event that no key has
                RETURN false;
        END CASE;
    END LOOP;
    RETURN coalesce(
        fields->>'role' = 'admin'
        AND fields->>'secretSha256' = encode(sha256(convert_to(secret, 'UTF8')), 'hex')
        AND coalesce((fields->>'expiresAt')::timestamptz > clock_timestamp(), true)
        -- The last event of a member who has left is the deletion.
        AND coalesce((SELECT e.topic <> 'member.deleted' FROM events AS e
                       WHERE e.workspace_id = workspace
                         AND e.stream_id = (fields->>'memberId')::uuid
                       ORDER BY e.stream_version DESC LIMIT 1), true), false);
END $$;
COMMENT ON FUNCTION is_live_admin_key IS
    'Whether this is the secret of an admin key of the workspace, neither revoked nor expired.';

CREATE FUNCTION append_key_events(workspace uuid, batch json, meta json, key_id uuid, secret text)
RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT is_live_admin_key(workspace, key_id, secret) THEN
        RAISE EXCEPTION 'API keys are changed with the secret of an admin key of the workspace only'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF EXISTS (SELECT FROM json_to_recordset(batch) AS e(topic text)
                WHERE e.topic IS NULL OR e.topic NOT LIKE 'api\_key.%') THEN
        RAISE EXCEPTION 'only events of API keys are appended by this function'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN QUERY SELECT append_events(workspace, batch, meta);
END $$;
COMMENT ON FUNCTION append_key_events IS
    'As append_events, for events of API keys; the caller presents an admin key with its secret.';

REVOKE ALL ON FUNCTION is_live_admin_key, append_key_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_key_events TO annals_app;

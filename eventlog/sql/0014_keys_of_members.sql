-- Finds the keys that were issued for a member, whose history shows them.
-- transactional: false

CREATE INDEX CONCURRENTLY IF NOT EXISTS events_keys_of_members
    ON events ((data->'fields'->>'memberId')) WHERE topic = 'api_key.issued';

-- When the database was backed up, so that health can warn of an old backup. `annals backup` adds a
-- row, as a superuser; a restored database has the rows of its backup.
CREATE TABLE backups (
    id       bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    made_at  timestamptz NOT NULL,
    position bigint      NOT NULL
);

COMMENT ON COLUMN backups.made_at IS 'When the backup began.';
COMMENT ON COLUMN backups.position IS 'The position of the last event that it has.';

GRANT SELECT ON backups TO annals_app;

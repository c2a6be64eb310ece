-- Who may be the same: normalised e-mail addresses and telephone numbers of contacts, companies of
-- accounts, and how many there are of each. projections/duplicates.py says how they are normalised.

CREATE TABLE email_keys (
    workspace_id uuid    NOT NULL,
    id           uuid    NOT NULL,
    key          text    COLLATE "C" NOT NULL,
    version      integer NOT NULL,
    PRIMARY KEY (workspace_id, id)
);
CREATE TABLE email_counts (
    workspace_id uuid   NOT NULL,
    key          text   COLLATE "C" NOT NULL,
    n            bigint NOT NULL,
    PRIMARY KEY (workspace_id, key)
);

CREATE TABLE phone_keys (
    workspace_id uuid    NOT NULL,
    id           uuid    NOT NULL,
    key          text    COLLATE "C" NOT NULL,
    version      integer NOT NULL,
    PRIMARY KEY (workspace_id, id)
);
CREATE TABLE phone_counts (
    workspace_id uuid   NOT NULL,
    key          text   COLLATE "C" NOT NULL,
    n            bigint NOT NULL,
    PRIMARY KEY (workspace_id, key)
);

CREATE TABLE company_keys (
    workspace_id uuid    NOT NULL,
    id           uuid    NOT NULL,
    key          text    COLLATE "C" NOT NULL,
    version      integer NOT NULL,
    PRIMARY KEY (workspace_id, id)
);
CREATE TABLE company_counts (
    workspace_id uuid   NOT NULL,
    key          text   COLLATE "C" NOT NULL,
    n            bigint NOT NULL,
    PRIMARY KEY (workspace_id, key)
);

-- indexes
CREATE INDEX ON email_keys (workspace_id, key, id);
CREATE INDEX ON email_counts (workspace_id, key) WHERE n > 1;
CREATE INDEX ON phone_keys (workspace_id, key, id);
CREATE INDEX ON phone_counts (workspace_id, key) WHERE n > 1;
CREATE INDEX ON company_keys (workspace_id, key, id);
CREATE INDEX ON company_counts (workspace_id, key) WHERE n > 1;

-- Keys of possible duplicates: normalised e-mail addresses and phone numbers of contacts, company
-- names of accounts, and the number of each. projections/duplicates.py normalises them.

CREATE TABLE email_keys (
    workspace_id uuid    NOT NULL,
    id           uuid    NOT NULL,
    key          text    COLLATE "C" NOT NULL,
    version      integer NOT NULL
);
CREATE TABLE email_counts (
    workspace_id uuid   NOT NULL,
    key          text   COLLATE "C" NOT NULL,
    n            bigint NOT NULL
);

CREATE TABLE phone_keys (
    workspace_id uuid    NOT NULL,
    id           uuid    NOT NULL,
    key          text    COLLATE "C" NOT NULL,
    version      integer NOT NULL
);
CREATE TABLE phone_counts (
    workspace_id uuid   NOT NULL,
    key          text   COLLATE "C" NOT NULL,
    n            bigint NOT NULL
);

CREATE TABLE company_keys (
    workspace_id uuid    NOT NULL,
    id           uuid    NOT NULL,
    key          text    COLLATE "C" NOT NULL,
    version      integer NOT NULL
);
CREATE TABLE company_counts (
    workspace_id uuid   NOT NULL,
    key          text   COLLATE "C" NOT NULL,
    n            bigint NOT NULL
);

-- indexes
ALTER TABLE email_keys ADD PRIMARY KEY (workspace_id, id);
ALTER TABLE email_counts ADD PRIMARY KEY (workspace_id, key);
ALTER TABLE phone_keys ADD PRIMARY KEY (workspace_id, id);
ALTER TABLE phone_counts ADD PRIMARY KEY (workspace_id, key);
ALTER TABLE company_keys ADD PRIMARY KEY (workspace_id, id);
ALTER TABLE company_counts ADD PRIMARY KEY (workspace_id, key);
CREATE INDEX ON email_keys (workspace_id, key, id);
CREATE INDEX ON email_counts (workspace_id, key) WHERE n > 1;
CREATE INDEX ON phone_keys (workspace_id, key, id);
CREATE INDEX ON phone_counts (workspace_id, key) WHERE n > 1;
CREATE INDEX ON company_keys (workspace_id, key, id);
CREATE INDEX ON company_counts (workspace_id, key) WHERE n > 1;

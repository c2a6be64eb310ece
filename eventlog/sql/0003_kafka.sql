-- The log on Kafka: the log's identity, the topics with the position published, and the offset up to
-- which each projection has consumed each partition. Offsets are stored only here, beside the rows
-- that they belong to (docs/adr/0006).

CREATE TABLE log_identity (
    id       uuid    NOT NULL DEFAULT gen_random_uuid(),
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one)
);
COMMENT ON TABLE log_identity IS 'Tells this log from every other: stands in each message.';
INSERT INTO log_identity DEFAULT VALUES;

CREATE TABLE kafka_topics (
    topic      text        PRIMARY KEY,
    topic_id   uuid        NOT NULL,
    partitions integer     NOT NULL CHECK (partitions > 0),
    generation bigint      NOT NULL DEFAULT 1,
    epoch      bigint      NOT NULL DEFAULT 0,
    position   bigint      NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON COLUMN kafka_topics.topic_id IS 'Given by Kafka: a topic that is made anew has another.';
COMMENT ON COLUMN kafka_topics.generation IS 'Counts how often the topic was made anew on purpose.';
COMMENT ON COLUMN kafka_topics.epoch IS 'Counts the relays that ever published; the last one counts.';
COMMENT ON COLUMN kafka_topics.position IS 'All events up to here are in the topic, acknowledged.';

-- For some positions, the offset of the mark in each partition. A consumer that needs the events
-- after such a position starts there instead of at the beginning.
CREATE TABLE kafka_marks (
    topic      text     NOT NULL REFERENCES kafka_topics ON DELETE CASCADE,
    generation bigint   NOT NULL,
    position   bigint   NOT NULL,
    offsets    bigint[] NOT NULL,
    PRIMARY KEY (topic, generation, position)
);

-- A projection with rows here consumes Kafka and has one position per partition. A projection
-- without rows here has only projections.position.
CREATE TABLE projection_offsets (
    projection  text   NOT NULL,
    topic       text   NOT NULL,
    partition   integer NOT NULL,
    generation  bigint NOT NULL,
    epoch       bigint NOT NULL,
    next_offset bigint NOT NULL,
    position    bigint NOT NULL,
    PRIMARY KEY (projection, topic, partition)
) WITH (fillfactor = 50);
COMMENT ON COLUMN projection_offsets.epoch IS 'Of the relay whose mark was consumed last; what an older one sends late is ignored.';
COMMENT ON COLUMN projection_offsets.next_offset IS 'Of the first message of the partition that is not in the rows.';
COMMENT ON COLUMN projection_offsets.position IS 'All events of the partition up to here are in the rows, exactly once.';

GRANT SELECT ON log_identity, kafka_topics, kafka_marks, projection_offsets TO annals_app;
GRANT SELECT ON log_identity TO annals_projector;
GRANT SELECT, INSERT, UPDATE, DELETE ON kafka_topics, kafka_marks, projection_offsets
    TO annals_projector;

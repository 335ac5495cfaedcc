-- The whole life of an item: what people ask of it, what is told of it. Times are microseconds since 1970 (UTC).

ALTER TABLE items ADD COLUMN assignee TEXT;              -- who is to look after it
ALTER TABLE items ADD COLUMN parent TEXT;                -- the item whose end made this one
ALTER TABLE items ADD COLUMN pending TEXT;               -- JSON: what was asked of it and waits for its message
ALTER TABLE items ADD COLUMN cancelled_from TEXT;        -- the state that restoring it brings back
ALTER TABLE items ADD COLUMN at_risk_at INTEGER;         -- from when on it is at risk of being late
ALTER TABLE items ADD COLUMN sla_next INTEGER;           -- when its sla changes next
ALTER TABLE items ADD COLUMN fingerprint TEXT;           -- of its exception: alike failures have the same
ALTER TABLE timeline ADD COLUMN ended TEXT;              -- JSON: the attempt that this line ends
-- As before, and whether one of them went out since a moment: the questions of breakers and of what is out for long.
DROP INDEX items_out;
CREATE INDEX items_out ON items (queue, priority, place, rejected_at, dispatched_at) WHERE place IN ('claimed', 'broker') AND rejected_at IS NULL;
CREATE INDEX items_by_parent ON items (parent) WHERE parent IS NOT NULL;
CREATE INDEX items_pending ON items (queue) WHERE pending IS NOT NULL;

-- Payloads of edits that wait until the item's message is taken out of the robots' queue.
CREATE TABLE pending_payloads (
    item TEXT NOT NULL PRIMARY KEY REFERENCES items (id),
    body BLOB NOT NULL
) WITHOUT ROWID;

-- Reconciliation: when a robots' queue was last seen at rest with items out that its acks did not cover ...
ALTER TABLE queue_acks ADD COLUMN rest_at INTEGER;
-- ... and how many acks that no item explains there were then.
ALTER TABLE queue_acks ADD COLUMN rest_acked INTEGER NOT NULL DEFAULT 0;

-- Items that a robot said it started: which of them take too long.
CREATE INDEX items_started ON items (queue, started_at) WHERE state = 'processing' AND rejected_at IS NULL;

-- Whether items are in time. `sla_next` is the next crossing that nobody was told of; it stays while an item is finished. Of
-- what was there before, the time until 80 % was at risk.
-- (With `IN` instead of `NOT IN` SQLite takes the lists' indexes for the questions that these are for.)
UPDATE items SET at_risk_at = enqueued_at + (due_at - enqueued_at) / 5 * 4 WHERE due_at > enqueued_at;
UPDATE items SET sla_next = coalesce(at_risk_at, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX items_sla ON items (sla_next) WHERE sla_next IS NOT NULL AND state NOT IN ('processed', 'cancelled');
-- What the counts by sla and the forecast look at: only items that are due some day, or wait for a time, pay for it.
CREATE INDEX items_due ON items (queue, priority, due_at, at_risk_at, ready_at) WHERE due_at IS NOT NULL AND state NOT IN ('processed', 'on_hold', 'exception', 'cancelled');
CREATE INDEX items_postponed ON items (queue, priority, ready_at) WHERE due_at IS NULL AND place = 'delayed';
-- Changes of items that `wq.events` is to tell of: the lines of their timelines, in the order in which they were committed, until the broker has
-- them. Numbers are never used twice: whoever deletes up to one must not meet newer rows below it.
CREATE TABLE changes (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    item     TEXT    NOT NULL,
    revision INTEGER NOT NULL
);

-- What is not kept for ever: items go, or their payloads alone, after their time.
ALTER TABLE items ADD COLUMN payload_gone INTEGER NOT NULL DEFAULT 0;   -- it was there and is not kept any more
CREATE INDEX items_finished ON items (queue, state, payload_gone, finished_at) WHERE finished_at IS NOT NULL;

-- References of items that are gone, in queues that are unique: taken for ever.
CREATE TABLE spent_references (
    queue        TEXT    NOT NULL,
    reference    TEXT    NOT NULL,
    item         TEXT    NOT NULL,
    content_hash TEXT,
    state        TEXT    NOT NULL,                       -- how the item ended
    finished_at  INTEGER NOT NULL,
    gone_at      INTEGER NOT NULL,
    PRIMARY KEY (queue, reference)
) WITHOUT ROWID;

-- Ends of items that made, or found, an item in another queue: each attempt and reason once, for as long as the item is
-- kept.
CREATE TABLE chained (
    parent  TEXT    NOT NULL,
    attempt INTEGER NOT NULL,
    reason  TEXT    NOT NULL,                            -- processed, or the exception's kind
    child   TEXT    NOT NULL,
    PRIMARY KEY (parent, attempt, reason)
) WITHOUT ROWID;
CREATE TRIGGER items_go_chained AFTER DELETE ON items BEGIN
    DELETE FROM chained WHERE parent = OLD.id;
END;

-- Breakers that have seen a failure: what failed alike in a row, and until when nothing goes out (null: closed).
CREATE TABLE breakers (
    queue       TEXT    NOT NULL PRIMARY KEY,
    fingerprint TEXT,
    failures    INTEGER NOT NULL,
    since       INTEGER NOT NULL,
    until       INTEGER
) WITHOUT ROWID;

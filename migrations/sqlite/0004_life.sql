-- The whole life of an item: what people ask of it, what is told of it. Times are microseconds since 1970 (UTC).

ALTER TABLE items ADD COLUMN assignee TEXT;              -- who is to look after it
ALTER TABLE items ADD COLUMN parent TEXT;                -- the item whose end made this one
ALTER TABLE items ADD COLUMN pending TEXT;               -- JSON: what was asked of it and waits for its message
ALTER TABLE items ADD COLUMN cancelled_from TEXT;        -- the state that restoring it brings back
ALTER TABLE items ADD COLUMN at_risk_at INTEGER;         -- from when on it is at risk of being late
ALTER TABLE items ADD COLUMN sla_next INTEGER;           -- when its sla changes next
ALTER TABLE items ADD COLUMN fingerprint TEXT;           -- of its exception: alike failures have the same
ALTER TABLE timeline ADD COLUMN ended TEXT;              -- JSON: the attempt that this line ends
CREATE INDEX items_by_parent ON items (parent) WHERE parent IS NOT NULL;
CREATE INDEX items_pending ON items (queue) WHERE pending IS NOT NULL;
CREATE INDEX items_sla ON items (sla_next) WHERE sla_next IS NOT NULL;

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

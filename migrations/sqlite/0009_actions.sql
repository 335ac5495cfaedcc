-- Jobs: one action on many items. Times are microseconds since 1970 (UTC).

CREATE TABLE actions (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT    NOT NULL UNIQUE,
    at       INTEGER NOT NULL,
    who      TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('receiving', 'collecting', 'previewing', 'previewed', 'running', 'stopped', 'cancelled', 'done')),
    deed     TEXT    NOT NULL,                           -- hold, release, ..., undo
    wish     TEXT    NOT NULL,                           -- JSON: what is asked of each item
    source   TEXT    NOT NULL,                           -- JSON: ids, a filter, or the job that is undone
    scope    TEXT,                                       -- JSON: patterns of the queues that who asked may touch; null: all
    dry_run  INTEGER NOT NULL,                           -- it began as a preview
    up_to    INTEGER NOT NULL,                           -- the newest item when it began; later ones are none of its
    collected INTEGER NOT NULL DEFAULT 0,                -- up to which item the set was put together ...
    acted    INTEGER NOT NULL DEFAULT 0,                 -- ... and up to which it was acted on, or previewed
    tally    TEXT    NOT NULL,                           -- JSON: how many items, and how they ended
    kept     INTEGER NOT NULL DEFAULT 0,                 -- bytes of former payloads
    rate     TEXT,                                       -- JSON
    ramp     TEXT,                                       -- JSON
    next_at  INTEGER,                                    -- not before this moment
    stopped  TEXT,                                       -- JSON: why
    preview  TEXT,                                       -- JSON
    undone_by TEXT,
    ended_at INTEGER
);
CREATE INDEX actions_open ON actions (seq) WHERE state IN ('collecting', 'previewing', 'running');
CREATE INDEX actions_ended ON actions (ended_at) WHERE ended_at IS NOT NULL;

-- The set of a job, in the order of admission, with what became of each item. Unknown ids have numbers below 0.
CREATE TABLE action_items (
    action   INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    item     TEXT    NOT NULL,
    would    TEXT,                                       -- what the preview said
    outcome  TEXT,                                       -- null: not acted on yet
    code     TEXT,
    reason   TEXT,
    failed   TEXT,                                       -- fingerprint of the exception it was
    before   INTEGER,                                    -- revisions
    after    INTEGER,
    at       INTEGER,
    PRIMARY KEY (action, seq)
) WITHOUT ROWID;
CREATE INDEX action_items_waiting ON action_items (action, seq) WHERE outcome = 'waiting';

-- How items were before, for undo.
CREATE TABLE action_former (
    action   INTEGER NOT NULL,
    item     INTEGER NOT NULL,                           -- its seq
    former   TEXT    NOT NULL,                           -- JSON
    body     BLOB,                                       -- the payload, where it was changed and is not too large
    PRIMARY KEY (action, item)
);
CREATE INDEX action_former_by_item ON action_former (item) WHERE body IS NOT NULL;
-- No longer than the item keeps what it carries.
CREATE TRIGGER payloads_go_former AFTER DELETE ON payloads BEGIN
    UPDATE action_former SET body = NULL WHERE item = OLD.seq AND body IS NOT NULL;
END;

-- What a group of alike failures is made of: exceptions alone pay for it.
CREATE INDEX items_by_fingerprint ON items (queue, fingerprint, seq) WHERE fingerprint IS NOT NULL;

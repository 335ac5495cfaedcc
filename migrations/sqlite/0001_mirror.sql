-- The mirror's first shape. Times are microseconds since 1970 (UTC); booleans 0 or 1; ids UUIDs as text.
-- The checks repeat what src/item/state.rs makes unrepresentable, so that no other hand can break it.

CREATE TABLE items (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,   -- order of admission
    id              TEXT    NOT NULL UNIQUE,
    queue           TEXT    NOT NULL,
    lane            TEXT    NOT NULL CHECK (lane IN ('managed', 'direct')),
    reference       TEXT,
    unique_reference TEXT,                               -- = reference where the queue's `unique` reserves it
    name            TEXT,
    state           TEXT    NOT NULL CHECK (state IN ('queued', 'processing', 'processed', 'on_hold', 'exception', 'cancelled')),
    kind            TEXT    CHECK (kind IN ('business', 'it', 'generic', 'timeout', 'expired', 'poison', 'invalid', 'duplicate', 'missing', 'unreported')),
    place           TEXT    NOT NULL CHECK (place IN ('delayed', 'ready', 'claimed', 'broker', 'settled')),
    code            TEXT,
    reason          TEXT,
    note            TEXT,
    result          TEXT,                                -- JSON
    progress        INTEGER CHECK (progress BETWEEN 0 AND 100),
    priority        INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 31),
    attempt         INTEGER NOT NULL,
    deliveries      INTEGER NOT NULL,
    retries         INTEGER NOT NULL,
    requeues        INTEGER NOT NULL,
    silent          INTEGER NOT NULL,
    rejected_at     INTEGER,
    possible_repeat INTEGER NOT NULL,
    ran_anyway      INTEGER NOT NULL,
    ignored         TEXT,                                -- JSON array of text; null where empty
    stub            INTEGER NOT NULL,
    content_type    TEXT,
    size            INTEGER,
    content_hash    TEXT,
    labels          TEXT,                                -- JSON object of text; null where empty
    worker          TEXT,
    traceparent     TEXT,
    reply_to        TEXT,
    correlation_id  TEXT,
    enqueued_at     INTEGER NOT NULL,
    not_before      INTEGER,
    ready_at        INTEGER NOT NULL,
    due_at          INTEGER,
    expires_at      INTEGER,
    dispatched_at   INTEGER,
    started_at      INTEGER,
    finished_at     INTEGER,
    revision        INTEGER NOT NULL,
    CHECK ((state = 'exception') = (kind IS NOT NULL)),
    CHECK (CASE state
        WHEN 'queued'     THEN place IN ('delayed', 'ready', 'claimed', 'broker')
        WHEN 'processing' THEN place IN ('claimed', 'broker')
        ELSE place = 'settled' END)
);
CREATE INDEX items_by_reference ON items (reference, queue) WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX items_unique ON items (queue, unique_reference) WHERE unique_reference IS NOT NULL;
-- Lists, newest or oldest first, of a queue and of all queues.
CREATE INDEX items_by_queue ON items (queue, state, seq);
CREATE INDEX items_by_state ON items (state, seq);
-- What dispatch and the timers look for.
CREATE INDEX items_ready ON items (queue, priority, seq) WHERE place = 'ready';
CREATE INDEX items_deadline ON items (queue, priority, due_at IS NULL, due_at, seq) WHERE place = 'ready';
CREATE INDEX items_claimed ON items (queue, priority DESC, seq) WHERE place = 'claimed';
-- With every column its questions name, or SQLite would fetch each row.
CREATE INDEX items_out ON items (queue, priority, place, rejected_at) WHERE place IN ('claimed', 'broker') AND rejected_at IS NULL;
CREATE INDEX items_delayed ON items (ready_at) WHERE place = 'delayed';
CREATE INDEX items_expiring ON items (expires_at) WHERE expires_at IS NOT NULL AND place IN ('delayed', 'ready');
CREATE INDEX items_rejected ON items (rejected_at) WHERE rejected_at IS NOT NULL AND place IN ('claimed', 'broker');

-- How many items there are of each state, so that nobody has to count them. Kept by the triggers alone.
CREATE TABLE item_counts (
    queue TEXT    NOT NULL,
    state TEXT    NOT NULL,
    kind  TEXT    NOT NULL,                              -- '' but for exceptions
    items INTEGER NOT NULL,
    PRIMARY KEY (queue, state, kind)
) WITHOUT ROWID;
CREATE TRIGGER items_come AFTER INSERT ON items BEGIN
    INSERT INTO item_counts VALUES (NEW.queue, NEW.state, coalesce(NEW.kind, ''), 1)
        ON CONFLICT (queue, state, kind) DO UPDATE SET items = items + 1;
END;
CREATE TRIGGER items_change AFTER UPDATE OF queue, state, kind ON items
    WHEN OLD.state <> NEW.state OR OLD.kind IS NOT NEW.kind OR OLD.queue <> NEW.queue BEGIN
    UPDATE item_counts SET items = items - 1
        WHERE queue = OLD.queue AND state = OLD.state AND kind = coalesce(OLD.kind, '');
    INSERT INTO item_counts VALUES (NEW.queue, NEW.state, coalesce(NEW.kind, ''), 1)
        ON CONFLICT (queue, state, kind) DO UPDATE SET items = items + 1;
END;
CREATE TRIGGER items_go AFTER DELETE ON items BEGIN
    UPDATE item_counts SET items = items - 1
        WHERE queue = OLD.queue AND state = OLD.state AND kind = coalesce(OLD.kind, '');
END;

CREATE TABLE payloads (
    item TEXT NOT NULL PRIMARY KEY REFERENCES items (id),
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE timeline (
    item     TEXT    NOT NULL REFERENCES items (id),
    revision INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    actor    TEXT    NOT NULL,
    user     TEXT,
    event    TEXT    NOT NULL,
    why      TEXT,
    attempt  INTEGER NOT NULL,
    state    TEXT    NOT NULL,
    PRIMARY KEY (item, revision)
) WITHOUT ROWID;

-- What could not be read or belongs to no item: kept whole, with every reason.
CREATE TABLE parked (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    source     TEXT    NOT NULL,                         -- intake, reports, tap
    queue      TEXT    NOT NULL,                         -- the routing key it came with
    reason     TEXT    NOT NULL,
    properties TEXT    NOT NULL,                         -- JSON
    body       BLOB    NOT NULL
);

-- Answers to `reply-to`, committed with the change they tell of and deleted once the broker has them.
CREATE TABLE answers (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    item           TEXT NOT NULL,
    reply_to       TEXT NOT NULL,
    correlation_id TEXT,
    type           TEXT NOT NULL,
    body           TEXT NOT NULL                         -- JSON
);

-- Per queue, what reconciliation has to remember about the broker's ack counter.
CREATE TABLE queue_acks (
    queue     TEXT    NOT NULL PRIMARY KEY,
    explained INTEGER NOT NULL DEFAULT 0,                -- acks the mirror knows the item of
    base      INTEGER NOT NULL DEFAULT 0,                -- counter value that stands for "none explained"
    last_seen INTEGER,                                   -- counter at the last observation (null: never) ...
    explained_then INTEGER NOT NULL DEFAULT 0,           -- ... and `explained` at that moment
    unaccounted INTEGER NOT NULL DEFAULT 0               -- open items at rest that nothing explains
) WITHOUT ROWID;

CREATE TABLE tap (
    stream      TEXT    NOT NULL PRIMARY KEY,
    next_offset INTEGER NOT NULL,
    lost        INTEGER NOT NULL DEFAULT 0,              -- copies the stream dropped before they were read
    anonymous   INTEGER NOT NULL DEFAULT 0               -- copies without message-id: counted, no row
) WITHOUT ROWID;

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Everything that happens is one feed: `changes`. A row that names no item is what control said: its revision is the number in `events`.
INSERT INTO changes (item, revision) SELECT '', seq FROM events ORDER BY seq;

-- Who has to have everything of the feed before it may go.
CREATE TABLE readers (
    name TEXT    NOT NULL PRIMARY KEY,                   -- broker: wq.events; outward: webhooks and notices
    seq  INTEGER NOT NULL                                -- everything up to this change is had
);
INSERT INTO readers (name, seq)
    SELECT 'broker', coalesce((SELECT min(seq) - 1 FROM changes), (SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0);

-- Whom people asked to be told over HTTP.
CREATE TABLE webhooks (
    id               TEXT    NOT NULL PRIMARY KEY,
    url              TEXT    NOT NULL,
    types            TEXT    NOT NULL,                   -- JSON, a list of patterns; empty: all
    queues           TEXT    NOT NULL,                   -- likewise, for keys of queues
    secret           TEXT    NOT NULL,                   -- whsec_...
    old_secret       TEXT,                               -- signs as well until old_until
    old_until        INTEGER,
    enabled          INTEGER NOT NULL,
    disabled_why     TEXT,                               -- by whom or what; null while enabled
    created_at       INTEGER NOT NULL,
    created_by       TEXT    NOT NULL,
    changed_at       INTEGER NOT NULL,
    changed_by       TEXT    NOT NULL
);

-- Where something is sent to outward, and how that went: a webhook by its id, a notice by its URL.
CREATE TABLE targets (
    id            TEXT    NOT NULL PRIMARY KEY,
    failures      INTEGER NOT NULL DEFAULT 0,            -- in a row, of the oldest that waits
    failing_since INTEGER,
    next_at       INTEGER,                               -- not before; null: at once
    last_error    TEXT,
    last_ok_at    INTEGER,
    paused_at     INTEGER,                               -- given up until somebody resumes
    missed        INTEGER NOT NULL DEFAULT 0,            -- so many are not kept for it: too many wait
    missed_since  INTEGER
);

-- What waits to be sent to them, the oldest first.
CREATE TABLE outgoing (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    target TEXT    NOT NULL,
    id     TEXT    NOT NULL,                             -- of the event: the same each time it is sent
    type   TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    body   TEXT    NOT NULL                              -- JSON
);
CREATE INDEX outgoing_by_target ON outgoing (target, seq);

-- The last attempts to send to each webhook.
CREATE TABLE deliveries (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    target  TEXT    NOT NULL,
    event   TEXT    NOT NULL,                            -- its id
    type    TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status  INTEGER,                                     -- null: no answer
    error   TEXT,                                        -- null: it was taken
    took_ms INTEGER NOT NULL
);
CREATE INDEX deliveries_by_target ON deliveries (target, seq);

-- Where each notice rule of a definition stands with its limit.
CREATE TABLE notices (
    rule  TEXT NOT NULL PRIMARY KEY,                     -- queue and what the rule says
    state TEXT NOT NULL                                  -- JSON
);

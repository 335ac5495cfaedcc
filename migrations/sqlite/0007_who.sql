-- Who asks over HTTP, and what they changed. Times are microseconds since 1970 (UTC).

-- What callers show: only a hash of the secret is kept. Rows stay when they are revoked: that one was ever made is what
-- keeps the API closed.
CREATE TABLE tokens (
    seq          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    name         TEXT    NOT NULL,                       -- the actor of what it is used for
    hash         BLOB    NOT NULL UNIQUE,                -- SHA-256
    roles        TEXT    NOT NULL,                       -- JSON array of words
    queues       TEXT    NOT NULL,                       -- JSON array of patterns
    reveal       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    created_by   TEXT    NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,                                -- about: noted now and then
    revoked_at   INTEGER,
    revoked_by   TEXT
);
-- A name says who it was: two that may be used do not share one.
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at IS NULL;

-- What was changed, by whom. Rows are added and nothing else.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    who     TEXT    NOT NULL,
    kind    TEXT    NOT NULL,                            -- token, oidc, nobody (nobody had to show who they are), local, daemon
    source  TEXT,                                        -- address it came from
    action  TEXT    NOT NULL,
    target  TEXT,
    outcome TEXT    NOT NULL,
    detail  TEXT                                         -- JSON
);
CREATE INDEX audit_by_time ON audit (at, seq);
CREATE INDEX audit_by_who ON audit (who, seq);
CREATE INDEX audit_by_action ON audit (action, seq);
CREATE TRIGGER audit_stays_as_it_is BEFORE UPDATE ON audit BEGIN
    SELECT raise(ABORT, 'the audit log is only added to');
END;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN
    SELECT raise(ABORT, 'the audit log is only added to');
END;
-- INSERT OR REPLACE takes a row away without asking the trigger above.
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) BEGIN
    SELECT raise(ABORT, 'the audit log is only added to');
END;

-- Idempotency keys that callers of the HTTP API gave, each with what it was given for. A row comes in the transaction of the
-- first thing that was done for it, so it is there exactly where something was done; the answer may come later.
CREATE TABLE idempotency_keys (
    caller  TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    request TEXT    NOT NULL,                            -- SHA-256 of method, path, conditions and body
    at      INTEGER NOT NULL,
    status  INTEGER,                                     -- null: something was done, and the answer is not kept (yet)
    headers TEXT,                                        -- JSON: [[name, value], ...]
    body    BLOB,
    UNIQUE (caller, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (at);

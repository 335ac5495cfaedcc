-- Requests with many items that named themselves by a key, written with their items: the same request sent again is answered
-- from here.
CREATE TABLE uploads (
    key         TEXT    NOT NULL UNIQUE,
    fingerprint TEXT    NOT NULL,
    -- What became of each row, as JSON.
    verdicts    TEXT    NOT NULL,
    at          INTEGER NOT NULL
);
CREATE INDEX uploads_by_age ON uploads (at);

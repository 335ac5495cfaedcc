-- Failures that are alike, and who works. Only items that fail, and reports, pay for these. Times are microseconds since 1970 (UTC).

-- What was seen of a failure in one queue. It stays while its items come and go.
CREATE TABLE failures (
    fingerprint TEXT    NOT NULL,
    queue       TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    code        TEXT,
    reason      TEXT,                                    -- as it read the last time
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    gone_at     INTEGER,                                 -- since when it had been gone ...
    back_at     INTEGER,                                 -- ... when it came back the last time
    seen        INTEGER NOT NULL,
    retried     INTEGER NOT NULL,
    recent      REAL    NOT NULL,                        -- how many count at last_seen, half of them forgotten after an hour ...
    usual       REAL    NOT NULL,                        -- ... and after three days
    PRIMARY KEY (fingerprint, queue)
) WITHOUT ROWID;
CREATE INDEX failures_by_age ON failures (queue, last_seen);

-- How many items are that exception now. Kept by the triggers alone.
CREATE TABLE failure_counts (
    fingerprint TEXT    NOT NULL,
    queue       TEXT    NOT NULL,
    items       INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, queue)
) WITHOUT ROWID;
CREATE TRIGGER failures_come AFTER INSERT ON items WHEN NEW.state = 'exception' AND NEW.fingerprint IS NOT NULL BEGIN
    INSERT INTO failure_counts VALUES (NEW.fingerprint, NEW.queue, 1)
        ON CONFLICT (fingerprint, queue) DO UPDATE SET items = items + 1;
END;
CREATE TRIGGER failures_change AFTER UPDATE OF state, fingerprint ON items
    WHEN (OLD.state = 'exception' OR NEW.state = 'exception')
        AND (OLD.state <> NEW.state OR OLD.fingerprint IS NOT NEW.fingerprint) BEGIN
    UPDATE failure_counts SET items = items - 1
        WHERE fingerprint = OLD.fingerprint AND queue = OLD.queue AND OLD.state = 'exception';
    INSERT INTO failure_counts SELECT NEW.fingerprint, NEW.queue, 1
        WHERE NEW.state = 'exception' AND NEW.fingerprint IS NOT NULL
        ON CONFLICT (fingerprint, queue) DO UPDATE SET items = items + 1;
END;
CREATE TRIGGER failures_go AFTER DELETE ON items WHEN OLD.state = 'exception' AND OLD.fingerprint IS NOT NULL BEGIN
    UPDATE failure_counts SET items = items - 1 WHERE fingerprint = OLD.fingerprint AND queue = OLD.queue;
END;
INSERT INTO failure_counts SELECT fingerprint, queue, count(*) FROM items
    WHERE state = 'exception' AND fingerprint IS NOT NULL GROUP BY fingerprint, queue;

-- Who works in which queue; '' are all that give no name.
CREATE TABLE robots (
    queue       TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    user        TEXT,                                    -- as the broker verified it the last time
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    ok          INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    other       INTEGER NOT NULL,                        -- given back or set aside
    timed       INTEGER,                                 -- whether it is known when the last one began
    hour        INTEGER NOT NULL,                        -- hours since 1970; of that hour ...
    busy        INTEGER NOT NULL,                        -- ... the microseconds it was busy
    busy_before INTEGER NOT NULL,                        -- and of the hour before
    PRIMARY KEY (queue, name)
) WITHOUT ROWID;
CREATE INDEX robots_by_age ON robots (queue, last_seen);

-- What was dropped because there was too much of it: `robots`, `failures`.
CREATE TABLE forgotten (
    what TEXT    NOT NULL PRIMARY KEY,
    rows INTEGER NOT NULL
) WITHOUT ROWID;

-- What control has to remember: the sets of definitions that were in force, what people paused, what is being changed on
-- the broker step by step, and events on their way out. Times are microseconds since 1970 (UTC).

-- Every set of definitions that was put in force, whole: the newest is what the daemon goes on with where the directory
-- cannot be used, and what retired queues were defined as.
CREATE TABLE revisions (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    who         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,                        -- of all files
    changes     TEXT    NOT NULL,                        -- JSON: what changed since the one before, by queue
    files       TEXT    NOT NULL                         -- JSON: text of each file by its name
);

-- Queues that are not defined any more and still served; `revision` is the last that defines them.
CREATE TABLE retired (
    queue    TEXT    NOT NULL PRIMARY KEY,
    at       INTEGER NOT NULL,
    revision INTEGER NOT NULL REFERENCES revisions (seq)
) WITHOUT ROWID;

-- What people paused by command, beside what definitions say.
CREATE TABLE pauses (
    queue    TEXT    NOT NULL PRIMARY KEY,
    dispatch INTEGER NOT NULL,
    intake   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    who      TEXT    NOT NULL
) WITHOUT ROWID;

-- Robots' queues that are being made anew with their items kept aside (control::migrate has the steps).
CREATE TABLE migrations (
    queue    TEXT    NOT NULL PRIMARY KEY,
    step     TEXT    NOT NULL CHECK (step IN ('draining', 'replacing', 'refilling', 'rolling_back', 'rolled_back')),
    why      TEXT    NOT NULL,
    began_at INTEGER NOT NULL,
    step_at  INTEGER NOT NULL,
    problem  TEXT                                        -- why it was rolled back
) WITHOUT ROWID;

-- Events for `wq.events`, committed with the change they tell of and deleted once the broker has them.
CREATE TABLE events (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    id   TEXT    NOT NULL,
    at   INTEGER NOT NULL,
    type TEXT    NOT NULL,                               -- also the routing key
    body TEXT    NOT NULL                                -- JSON
);

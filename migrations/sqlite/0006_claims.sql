-- Items that somebody claimed over HTTP: with a lease, and with no message on the broker. Times are microseconds since 1970 (UTC).

-- A place more. The check of a table with a million rows is changed where it stands, as SQLite describes it for checks (PRAGMA
-- writable_schema): making the table anew would copy every row.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(replace(sql,
    '''claimed'', ''broker'', ''settled''', '''claimed'', ''broker'', ''leased'', ''settled'''),
    'WHEN ''processing'' THEN place IN (''claimed'', ''broker'')', 'WHEN ''processing'' THEN place IN (''claimed'', ''broker'', ''leased'')')
    WHERE type = 'table' AND name = 'items';
PRAGMA writable_schema = RESET;

-- Who has, or had, which attempt of which item. An attempt is claimed once at most. Those that are over stay for as long as the item is
-- kept: whoever comes late is told what became of it.
CREATE TABLE leases (
    item     TEXT    NOT NULL,
    attempt  INTEGER NOT NULL,
    lease    TEXT    NOT NULL,                           -- its name; items claimed together share one
    worker   TEXT    NOT NULL,
    person   INTEGER NOT NULL,                           -- of one item by its name
    since    INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    length   INTEGER NOT NULL,                           -- what a heartbeat extends it by
    lost     INTEGER NOT NULL,                           -- leases of this item lost in a row before it
    ended    TEXT,                                       -- how; null while it lasts
    ended_at INTEGER,
    PRIMARY KEY (item, attempt)
) WITHOUT ROWID;
CREATE INDEX leases_until ON leases (until) WHERE ended IS NULL;
CREATE INDEX leases_open ON leases (lease) WHERE ended IS NULL;
CREATE TRIGGER items_go_leases AFTER DELETE ON items BEGIN
    DELETE FROM leases WHERE item = OLD.id;
END;

-- How many are being worked, and since when: only items that are leased pay for it.
CREATE INDEX items_leased ON items (queue, priority, dispatched_at) WHERE place = 'leased';

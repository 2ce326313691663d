-- What this node took and no leader has yet: outcomes of runs (kind `result`) and tasks (kind `submit`).
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    put_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    task TEXT NOT NULL,
    body BLOB NOT NULL
);

CREATE INDEX entries_kind ON entries (kind, entry);
CREATE UNIQUE INDEX entries_submit ON entries (task) WHERE kind = 'submit';

-- Entries that could not be read, as they were.
CREATE TABLE garbage (
    entry INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    put_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    task TEXT NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL
);

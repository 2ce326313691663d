-- The first version.
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

CREATE TABLE garbage (
    entry INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    put_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    task TEXT NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL
);

-- What this node took and no leader has yet: outcomes of runs (kind `result`), what runs kept on their
-- way (`kept`) and tasks (`submit`).
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    put_ms INTEGER NOT NULL,
    boot TEXT NOT NULL,
    task TEXT NOT NULL,
    body BLOB NOT NULL,
    owner TEXT NOT NULL DEFAULT ''
);

CREATE INDEX entries_kind ON entries (kind, entry);
CREATE UNIQUE INDEX entries_submit ON entries (task) WHERE kind = 'submit';
CREATE INDEX entries_owner ON entries (owner) WHERE owner <> '';

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

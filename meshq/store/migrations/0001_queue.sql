-- The first version.

CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    rank INTEGER NOT NULL,
    majority INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    state TEXT NOT NULL,
    name TEXT NOT NULL,
    payload BLOB,
    payload_ref TEXT,
    priority INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    timeout_s REAL,
    retries INTEGER NOT NULL,
    backoff_s REAL NOT NULL,
    key TEXT,
    retry_of TEXT,
    batch TEXT,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    worker TEXT,
    result BLOB,
    result_ref TEXT,
    error BLOB,
    submitted_ms INTEGER NOT NULL,
    started_ms INTEGER,
    finished_ms INTEGER
);

CREATE INDEX tasks_stamp ON tasks (writer, seq);
CREATE INDEX tasks_state ON tasks (state, id);
CREATE INDEX tasks_pending ON tasks (priority DESC) WHERE state = 'pending';
CREATE INDEX tasks_due ON tasks (not_before_ms) WHERE state = 'pending' AND not_before_ms > 0;
CREATE INDEX tasks_running ON tasks (worker) WHERE state = 'running';
CREATE INDEX tasks_key ON tasks (key, id) WHERE key IS NOT NULL;

CREATE TABLE payloads (
    ref TEXT NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE INDEX payloads_stamp ON payloads (writer, seq);

CREATE TABLE roster (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    genesis TEXT NOT NULL,
    members BLOB NOT NULL,
    recovery INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL
);

CREATE TABLE vector (
    writer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE committed (
    writer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE peers (
    node TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    addresses BLOB NOT NULL,
    heard_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

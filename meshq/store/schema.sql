-- The whole database of a node: its copy of the queue, and what it remembers for itself.
-- It equals the migrations applied in order; a test compares the two.

-- One row for each task; the columns are the fields of core.task.Task. The rowid is the order of arrival here:
-- it survives every later version of the row, and of waiting tasks with one order_ms the least goes first.
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
    finished_ms INTEGER,
    story BLOB NOT NULL DEFAULT x'',
    owner TEXT NOT NULL DEFAULT '',
    backoff TEXT NOT NULL DEFAULT 'exponential',
    max_running INTEGER NOT NULL DEFAULT 0,
    keep_s REAL,
    order_ms INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX tasks_stamp ON tasks (writer, seq);
CREATE INDEX tasks_state ON tasks (state, id);
-- Waiting tasks in groups, since a claim passes over a whole one: of a name that its worker does not know or whose bound
-- is reached. Within a group they go by order_ms, then by the rowid.
CREATE INDEX tasks_pending ON tasks (name, max_running, not_before_ms > 0, order_ms) WHERE state = 'pending';
CREATE INDEX tasks_due ON tasks (not_before_ms) WHERE state = 'pending' AND not_before_ms > 0;
CREATE INDEX tasks_running ON tasks (name, worker) WHERE state = 'running';
-- Finished tasks by when they are to be purged: those that are kept as long as all others are, and those that are not.
CREATE INDEX tasks_finished ON tasks (finished_ms) WHERE rank = 1 AND keep_s IS NULL;
CREATE INDEX tasks_kept ON tasks (CAST(finished_ms + keep_s * 1000 AS INTEGER)) WHERE rank = 1 AND keep_s IS NOT NULL;
CREATE INDEX tasks_tombstones ON tasks (writer, seq) WHERE rank = 2;
CREATE INDEX tasks_batch ON tasks (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX tasks_retry ON tasks (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX tasks_key ON tasks (key, id) WHERE key IS NOT NULL;
CREATE INDEX tasks_owner ON tasks (owner, id) WHERE owner <> '';
CREATE INDEX tasks_owner_open ON tasks (owner) WHERE owner <> '' AND rank = 0;

-- Large arguments and results: rows of their own, so that a task's moves do not send them again. Those of a task
-- are named TASK/args, TASK/result/..., TASK/checkpoint for what its run kept last, and TASK/clash/... for an outcome
-- that lost; reports of merges merge/...; credentials credential/NAME, and credential/NAME/revoked once they are valid
-- no more.
CREATE TABLE payloads (
    ref TEXT NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE INDEX payloads_stamp ON payloads (writer, seq);

-- One row at most. The members are a packed list of ids, and so are the clusters that it absorbed.
CREATE TABLE roster (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    genesis TEXT NOT NULL,
    members BLOB NOT NULL,
    recovery INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    version INTEGER NOT NULL,
    writer TEXT NOT NULL,
    seq INTEGER NOT NULL,
    absorbed BLOB NOT NULL DEFAULT x'90',
    into_genesis TEXT NOT NULL DEFAULT ''
);

-- For each writer: I hold every version up to there, or a later one.
CREATE TABLE vector (
    writer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

-- For each writer: every version up to there is known to be on a majority.
CREATE TABLE committed (
    writer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

-- For each writer: its tombstones up to there were dropped, everywhere or soon.
CREATE TABLE dropped (
    writer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

-- The tasks that were here when a full copy began, and that nobody has shown since. Not replicated.
CREATE TABLE suspects (
    id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- What a full copy took out of the queue: packed tasks with their large values. Not replicated.
CREATE TABLE held (
    number INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    task BLOB NOT NULL
);

-- Where other nodes were last reached. Not replicated. The addresses are a packed list.
CREATE TABLE peers (
    node TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    addresses BLOB NOT NULL,
    heard_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- Facts about this database itself. Not replicated.
CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

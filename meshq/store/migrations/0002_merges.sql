-- Stories of tasks, clusters that become one, purging, and full copies.

ALTER TABLE tasks ADD COLUMN story BLOB NOT NULL DEFAULT x'';
ALTER TABLE roster ADD COLUMN absorbed BLOB NOT NULL DEFAULT x'90';
ALTER TABLE roster ADD COLUMN into_genesis TEXT NOT NULL DEFAULT '';

CREATE TABLE dropped (
    writer TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE suspects (
    id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;

CREATE TABLE held (
    number INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    task BLOB NOT NULL
);

CREATE INDEX tasks_finished ON tasks (finished_ms) WHERE rank = 1;

-- How a task is retried, how many of its name may run, how long it is kept, and where it stands in the queue.

ALTER TABLE tasks ADD COLUMN backoff TEXT NOT NULL DEFAULT 'exponential';
ALTER TABLE tasks ADD COLUMN max_running INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN keep_s REAL;
ALTER TABLE tasks ADD COLUMN order_ms INTEGER NOT NULL DEFAULT 0;

-- As core.task.plain_order_ms does it, so that all copies of a row come to the same.
UPDATE tasks SET order_ms = max(-(1 << 53), min(1 << 53, submitted_ms - max(-1000000, min(1000000, priority)) * 60000));

DROP INDEX tasks_pending;
CREATE INDEX tasks_pending ON tasks (name, max_running, not_before_ms > 0, order_ms) WHERE state = 'pending';
DROP INDEX tasks_running;
CREATE INDEX tasks_running ON tasks (name, worker) WHERE state = 'running';
DROP INDEX tasks_finished;
CREATE INDEX tasks_finished ON tasks (finished_ms) WHERE rank = 1 AND keep_s IS NULL;
CREATE INDEX tasks_kept ON tasks (CAST(finished_ms + keep_s * 1000 AS INTEGER)) WHERE rank = 1 AND keep_s IS NOT NULL;
CREATE INDEX tasks_tombstones ON tasks (writer, seq) WHERE rank = 2;
CREATE INDEX tasks_batch ON tasks (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX tasks_retry ON tasks (retry_of) WHERE retry_of IS NOT NULL;

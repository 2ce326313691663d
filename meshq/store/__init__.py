"""The only SQL: the queue, the feed, promises and the outbox, in SQLite."""

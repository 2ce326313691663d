-- The highest epoch that this node promised, to whom, and for how long; one row.
CREATE TABLE promise (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,
    holder TEXT NOT NULL,
    lease_s REAL NOT NULL
);

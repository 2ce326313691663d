-- Tasks that were submitted with a credential, and not with the cluster's key, belong to it.

ALTER TABLE tasks ADD COLUMN owner TEXT NOT NULL DEFAULT '';

CREATE INDEX tasks_owner ON tasks (owner, id) WHERE owner <> '';
CREATE INDEX tasks_owner_open ON tasks (owner) WHERE owner <> '' AND rank = 0;

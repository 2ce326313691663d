-- Whose tasks wait, where they were submitted with a credential: each may fill only its share.

ALTER TABLE entries ADD COLUMN owner TEXT NOT NULL DEFAULT '';

CREATE INDEX entries_owner ON entries (owner) WHERE owner <> '';

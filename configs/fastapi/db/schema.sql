SET SESSION AUTHORIZATION app;

CREATE TABLE users (
    name text PRIMARY KEY,
    salt bytea NOT NULL,
    password_hash bytea NOT NULL
);

CREATE TABLE notes (
    id uuid PRIMARY KEY,
    author text NOT NULL REFERENCES users (name),
    text text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX notes_by_author ON notes (author, written_at);


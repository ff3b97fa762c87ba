"""The tables of the profile's SQLite file, as the steps that lead from version to version."""

from __future__ import annotations

_MEASURED = """
CREATE TABLE environment (
    id INTEGER PRIMARY KEY,
    facts TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE measurement (
    key TEXT PRIMARY KEY,
    target_key TEXT NOT NULL,
    versions TEXT NOT NULL,
    kernel TEXT NOT NULL,
    policy TEXT NOT NULL,
    environment INTEGER NOT NULL REFERENCES environment (id),
    run_s TEXT,
    failure TEXT,
    CHECK ((run_s IS NULL) <> (failure IS NULL))
) STRICT;
CREATE INDEX measurement_target ON measurement (target_key);
CREATE VIEW measured AS
    SELECT m.rowid AS number, key, kernel, target_key, versions, policy, facts, run_s, failure
    FROM measurement AS m JOIN environment AS e ON e.id = m.environment;
"""
_TUNED = """
CREATE TABLE tuned (
    key TEXT NOT NULL,
    target_key TEXT NOT NULL,
    versions TEXT NOT NULL,
    kernel TEXT NOT NULL,
    choice TEXT NOT NULL,
    trials TEXT NOT NULL,
    PRIMARY KEY (key, target_key, versions)
) STRICT;
"""
# A measurement that was taken again leaves its samples to `superseded`: what is doubted is kept.
_PROFILED = """
ALTER TABLE measurement ADD COLUMN energy_j REAL;
ALTER TABLE measurement ADD COLUMN section INTEGER;
ALTER TABLE measurement ADD COLUMN taken_at_s REAL;
DROP VIEW measured;
CREATE VIEW measured AS
    SELECT key, kernel, target_key, versions, policy, facts, run_s, failure,
        energy_j, section, taken_at_s, m.rowid AS number
    FROM measurement AS m JOIN environment AS e ON e.id = m.environment;
CREATE TABLE superseded (
    key TEXT NOT NULL,
    environment INTEGER NOT NULL REFERENCES environment (id),
    run_s TEXT,
    failure TEXT,
    energy_j REAL,
    section INTEGER,
    taken_at_s REAL
) STRICT;
CREATE TABLE section (
    number INTEGER PRIMARY KEY,
    target_key TEXT NOT NULL,
    versions TEXT NOT NULL,
    began_s REAL NOT NULL,
    environment INTEGER NOT NULL REFERENCES environment (id),
    anchors TEXT NOT NULL,
    shift REAL,
    drifting INTEGER NOT NULL
) STRICT;
CREATE TABLE network (
    key TEXT PRIMARY KEY,
    target_key TEXT NOT NULL,
    versions TEXT NOT NULL,
    subject TEXT NOT NULL,
    calls TEXT NOT NULL,
    policies TEXT NOT NULL,
    environment INTEGER NOT NULL REFERENCES environment (id),
    run_s TEXT,
    failure TEXT,
    section INTEGER,
    taken_at_s REAL,
    CHECK ((run_s IS NULL) <> (failure IS NULL))
) STRICT
"""
STEPS = (_MEASURED, _TUNED, _PROFILED)
"""Step n makes a file of version n out of one of version n - 1; version 0 is an empty file."""

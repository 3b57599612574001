"""Databases for tests: with all migrations applied, empty, and of one test alone.

Most of them are lent: what a test leaves is emptied for the next one, which takes a tenth of the CPU time of another clone
of 600 relations. A database whose schema was changed is dropped instead: an event trigger of the template's notes that.
Partitions that were added are no such change, they are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from stepwell.adapters.postgres.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

# Not in the schema `public`, where everything of Stepwell's own is.
_WATCH = """
CREATE SCHEMA lending;
CREATE TABLE lending.changes (what text NOT NULL);
CREATE TABLE lending.kept AS SELECT * FROM schema_migrations;
CREATE TABLE lending.tables AS SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace;
CREATE FUNCTION lending.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF NOT starts_with(current_query(), 'SELECT add_partitions(') THEN
    INSERT INTO lending.changes VALUES (tg_tag);
  END IF;
END $$;
CREATE EVENT TRIGGER note_changes ON ddl_command_end EXECUTE FUNCTION lending.note();
"""

_CUT = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

_CHANGED = """
SELECT EXISTS (SELECT FROM lending.changes)
  OR EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database())
  OR EXISTS ((TABLE lending.kept EXCEPT TABLE schema_migrations) UNION ALL (TABLE schema_migrations EXCEPT TABLE lending.kept))
"""

# A table that holds nothing may have held something: what counts is whether its file was ever written to.
_EMPTY = """
DO $$
DECLARE
  added text;
  written text;
BEGIN
  SELECT string_agg(oid::regclass::text, ', ') INTO added FROM pg_class
  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND oid NOT IN (SELECT oid FROM lending.tables);
  IF added IS NOT NULL THEN
    EXECUTE format('DROP TABLE %s', added);
  END IF;
  SELECT string_agg(oid::regclass::text, ', ') INTO written FROM lending.tables
  WHERE oid <> 'schema_migrations'::regclass AND pg_relation_size(oid) > 0;
  IF written IS NOT NULL THEN
    EXECUTE format('TRUNCATE %s CASCADE', written);
  END IF;
  PERFORM setval(format('%I.%I', schemaname, sequencename), start_value, false) FROM pg_sequences WHERE last_value IS NOT NULL;
  DELETE FROM lending.changes;  -- the DROP above
END $$
"""


class Databases:
    """Databases on one server, made from a template that is made once."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._template: str | None = None
        self._numbers = itertools.count(1)
        self._watched = False
        self._spare: list[str] = []

    @contextlib.contextmanager
    def lent(self) -> Iterator[str]:
        """The DSN of a database that is as new. At the end it goes to the next one, under another name."""
        name = self._name()
        if self._spare:
            self._run("ALTER DATABASE {} RENAME TO {}", self._spare.pop(), name)
        else:
            self._clone(name)
        try:
            yield self._dsn(name)
        finally:
            if self._emptied(name):
                self._spare.append(name)
            else:
                self._drop(name)

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """The DSN of one that nobody had before. Dropped at the end, whoever is still connected."""
        name = self._name()
        self._clone(name)
        try:
            yield self._dsn(name)
        finally:
            self._drop(name)

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """The DSN of one without any table."""
        name = self._name()
        self._run("CREATE DATABASE {}", name)
        try:
            yield self._dsn(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop the template, and what waits for the next test."""
        for name in [*self._spare, self._template]:
            if name is not None:
                self._drop(name)

    def _emptied(self, name: str) -> bool:
        """Whether a database could be made as new; nobody is connected to it any more."""
        if not self._watched:
            return False
        with contextlib.suppress(psycopg.Error), psycopg.connect(self._dsn(name), autocommit=True) as connection:
            connection.execute(_CUT)
            if connection.execute(_CHANGED).fetchone() == (False,):
                connection.execute(_EMPTY)
                return True
        return False

    def _clone(self, name: str) -> None:
        # 50 ms for 600 relations, where file_copy takes 85: it waits for two checkpoints.
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log", name, self._made_template())

    def _made_template(self) -> str:
        if self._template is None:
            self._template = self._name()
            self._run("CREATE DATABASE {}", self._template)
            asyncio.run(migrate(self._dsn(self._template)))
            with psycopg.connect(self._dsn(self._template)) as connection:
                row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
                self._watched = row == (True,)
                if self._watched:
                    connection.execute(_WATCH)
        return self._template

    def _name(self) -> str:
        return f"stepwell_test_{os.getpid()}_{next(self._numbers)}"

    def _dsn(self, name: str) -> str:
        return make_conninfo(self._server, dbname=name)

    def _drop(self, name: str) -> None:
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _run(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

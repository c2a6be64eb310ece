"""A CRUD service as a user would write it: FastAPI, psycopg, and an audit trail by a trigger.

    python -m benchmarks.crud PORT      (ANNALS_BENCHMARK_URL: the database)

One table, and one with a row for each change: the row before and after. No workspaces, access,
limits, conditions or metrics.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import uvicorn
from fastapi import FastAPI, HTTPException
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from benchmarks.passthrough import POOL_MAX, URL_VARIABLE

CREATE_TABLES = """
CREATE TABLE crud_accounts (
    id uuid PRIMARY KEY, company text NOT NULL, type text, status text, priority text,
    next_action text, custom_fields jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    version integer NOT NULL DEFAULT 1);
CREATE TABLE crud_audit (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, account_id uuid NOT NULL,
    before jsonb, after jsonb, at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON crud_audit (account_id, id);
CREATE FUNCTION crud_audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO crud_audit (account_id, before, after)
    VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END, to_jsonb(NEW));
    RETURN NEW;
END $$;
CREATE TRIGGER audited AFTER INSERT OR UPDATE ON crud_accounts
    FOR EACH ROW EXECUTE FUNCTION crud_audited();
GRANT SELECT, INSERT, UPDATE ON crud_accounts TO annals_app;
GRANT INSERT ON crud_audit TO annals_app;
"""
INSERT = """
INSERT INTO crud_accounts (id, company, type, status, priority, next_action, custom_fields)
VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING *
"""
COLUMNS = ("company", "type", "status", "priority", "next_action", "custom_fields")


class Account(BaseModel):
    """An account as it is sent."""

    company: str
    type: str | None = None
    status: str | None = None
    priority: str | None = None
    next_action: str | None = None
    custom_fields: dict[str, Any] = {}


class Change(BaseModel):
    """The fields to change."""

    company: str | None = None
    type: str | None = None
    status: str | None = None
    priority: str | None = None
    next_action: str | None = None
    custom_fields: dict[str, Any] | None = None


def application(database_url: str) -> FastAPI:
    """The service: POST and PATCH."""
    pool = AsyncConnectionPool(
        database_url,
        min_size=POOL_MAX,
        max_size=POOL_MAX,
        open=False,
        kwargs={"autocommit": True, "row_factory": dict_row},
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    async def run(statement: str, values: list[Any]) -> DictRow | None:
        async with pool.connection() as connection:
            cursor = await connection.execute(statement.encode(), values, prepare=True)
            return await cursor.fetchone()  # type: ignore[return-value]

    @app.post("/accounts", status_code=201)
    async def create(given: Account) -> Any:
        values = [*given.model_dump().values()]
        return await run(INSERT, [uuid4(), *values[:-1], Jsonb(values[-1])])

    @app.patch("/accounts/{account_id}")
    async def change(account_id: UUID, given: Change) -> Any:
        fields = given.model_dump(exclude_unset=True)
        names = [name for name in COLUMNS if name in fields]
        settings = ", ".join(f"{name} = %s" for name in names)
        values = [
            Jsonb(fields[name]) if name == "custom_fields" else fields[name] for name in names
        ]
        row = await run(
            f"UPDATE crud_accounts SET {settings}, updated_at = now(), version = version + 1"
            " WHERE id = %s RETURNING *",
            [*values, account_id],
        )
        if row is None:
            raise HTTPException(404)
        return row

    return app


def main() -> None:
    app = application(os.environ[URL_VARIABLE])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()

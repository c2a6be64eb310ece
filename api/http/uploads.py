"""Files in the body of a request, stored in parts as they arrive, never in memory as a whole."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.message import Message

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from commands.importing.files import PART_BYTES
from runtime import codes
from runtime.errors import ApiError

CSV_TYPE = "text/csv"
FORM_TYPE = "multipart/form-data"
FILE_TYPES = (CSV_TYPE, FORM_TYPE)
FILE_PART = "file"
PARTS_AT_ONCE = 4
NAME_MAX_CHARS = 200
UNNAMED = "import.csv"

Save = Callable[[int, list[bytes]], Awaitable[None]]
"""Stores parts of a file, given the number of the first."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file that was received completely: length, SHA-256, and the name if a form gave one."""

    size_bytes: int
    digest: bytes
    name: str | None


def charset_of(request: Request) -> str | None:
    """Return the charset of Content-Type, or None."""
    header = Message()
    header["Content-Type"] = request.headers.get("Content-Type", "")
    return header.get_content_charset()


async def receive_file(request: Request, save: Save) -> ReceivedFile:
    """Receive a file: a body of `text/csv`, or the part `file` of a form.

    Raises 400 (E2066), 408 (E4002), 413 (E2061), 415 (E2025).
    """
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type not in FILE_TYPES:
        headers = {"Accept": ", ".join(FILE_TYPES)}
        raise ApiError(codes.UNSUPPORTED_MEDIA_TYPE, headers=headers, supported=list(FILE_TYPES))
    try:
        async with asyncio.timeout(request.app.state.settings.import_upload_timeout_s):
            if media_type == CSV_TYPE:
                return await _save_chunks(_read_body(request), save, None)
            return await _from_form(request, save)
    except TimeoutError:
        raise ApiError(codes.BODY_TIMED_OUT, headers={"Connection": "close"}) from None


async def _from_form(request: Request, save: Save) -> ReceivedFile:
    try:
        form = await MultiPartParser(request.headers, _read_body(request), max_files=1).parse()
    except (MultiPartException, KeyError) as fault:
        raise ApiError(codes.WRONG_FORM, str(getattr(fault, "message", fault))) from None
    try:
        file = form.get(FILE_PART)
        if not isinstance(file, UploadFile):
            raise ApiError(codes.WRONG_FORM)
        return await _save_chunks(_read_chunks(file), save, file.filename)
    finally:
        await form.close()


async def _read_chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(PART_BYTES):
        yield chunk


async def _read_body(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield the body. Raises 413 (E2061) once it exceeds the maximum length."""
    max_bytes = request.app.state.settings.import_max_bytes
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            # The rest is not read, so the connection cannot serve another request.
            headers = {"Connection": "close"}
            raise ApiError(codes.IMPORT_TOO_LARGE, headers=headers, maxBytes=max_bytes)
        yield chunk


async def _save_chunks(chunks: AsyncIterator[bytes], save: Save, name: str | None) -> ReceivedFile:
    """Save the chunks as parts of `PART_BYTES`, several at a time."""
    digest, size, number = hashlib.sha256(), 0, 0
    rest = bytearray()
    async for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        rest += chunk
        if len(rest) >= PART_BYTES * PARTS_AT_ONCE:
            whole = len(rest) // PART_BYTES * PART_BYTES
            number += await _save_parts(save, number, rest[:whole])
            del rest[:whole]
    await _save_parts(save, number, rest)
    return ReceivedFile(size, digest.digest(), name)


async def _save_parts(save: Save, number: int, content: bytearray) -> int:
    starts = range(0, len(content), PART_BYTES)
    parts = [bytes(content[start : start + PART_BYTES]) for start in starts]
    if parts:
        await save(number, parts)
    return len(parts)


def plain_name(name: str | None) -> str:
    """Return the name of a file without folders and unprintable characters."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    plain = "".join(char for char in last if char.isprintable()).strip()[:NAME_MAX_CHARS]
    return plain or UNNAMED

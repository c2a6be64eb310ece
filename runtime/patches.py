"""Partial updates: JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7396)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jsonpatch
import jsonpointer

from domain.shared.fields import CUSTOM, Fields, FieldValues
from domain.shared.text import shortened
from runtime import codes
from runtime.errors import FIELD_SHOWN_MAX_CHARS, ApiError

JSON_TYPE = "application/json"
JSON_PATCH_TYPE = "application/json-patch+json"
MERGE_PATCH_TYPE = "application/merge-patch+json"
PATCH_TYPES = (MERGE_PATCH_TYPE, JSON_PATCH_TYPE, JSON_TYPE)

PATCH_OPERATIONS_MAX = 100
DOCUMENT_VALUES_MAX = 5_000
"""Maximum number of values in a patched document. An entity has a few hundred values, but each
`copy` operation could double the document."""

PatchFunction = Callable[[FieldValues], Mapping[str, Any]]


def change_of(fields: type[Fields], media_type: str, patch: Any) -> PatchFunction:
    """Return a function that applies the patch to fields. Raises 400 (E2026, E2027).

    The function raises 409 (E5010, E5011) if the patch does not apply to the fields.
    """
    if media_type == JSON_PATCH_TYPE:
        operations = _operations(patch)
        return lambda values: _patched(document(fields, values), operations)
    merge = require_object(patch)
    known = fields.wire_names()
    unknown = {name: None for name, value in merge.items() if value is None and name not in known}
    return lambda values: {
        **without_nulls(merge_patch(document(fields, values), merge), known),
        **unknown,
    }


def document(fields: type[Fields], values: FieldValues) -> dict[str, Any]:
    """The fields as GET shows them: unset ones are null, so that `replace` and `test` find them."""
    shown = {name: values.get(name) for name in fields.wire_names()}
    for name, value in shown.items():
        if isinstance(value, (dict, list)):
            shown[name] = copy.deepcopy(value)
    shown[CUSTOM] = shown[CUSTOM] or {}
    return shown


def without_nulls(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields without those that are null, which are unset.

    A null stays if its name is not a known one, so that a misspelt name is refused with it.
    """
    return {name: value for name, value in fields.items() if value is not None or name not in known}


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a patch by RFC 7396, section 2: merge objects, remove by null, replace otherwise."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def require_object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object. Raises 400 (E2026)."""
    if not isinstance(value, dict):
        raise ApiError(codes.UNEXPECTED_SHAPE, "A JSON object is expected.")
    return value


def _operations(patch: Any) -> list[jsonpatch.JsonPatch]:
    if not isinstance(patch, list):
        raise ApiError(codes.UNEXPECTED_SHAPE, "A JSON Patch is an array of operations.")
    if len(patch) > PATCH_OPERATIONS_MAX:
        raise ApiError(codes.MALFORMED_PATCH, f"At most {PATCH_OPERATIONS_MAX} operations.")
    return [_operation(number, each) for number, each in enumerate(patch)]


def _operation(number: int, operation: Any) -> jsonpatch.JsonPatch:
    members = operation if isinstance(operation, dict) else {}
    name = members.get("op")
    required = {"path"}
    if name in ("add", "replace", "test"):
        required.add("value")
    if name in ("move", "copy"):
        required.add("from")
    pointers: list[Any] = [members[each] for each in ("path", "from") if each in members]
    if not required <= members.keys() or not all(isinstance(each, str) for each in pointers):
        raise ApiError(codes.MALFORMED_PATCH, operation=number)
    try:
        for pointer in pointers:
            jsonpointer.JsonPointer(pointer)
        return jsonpatch.JsonPatch([operation])
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException):
        raise ApiError(codes.MALFORMED_PATCH, operation=number) from None


def _patched(shown: dict[str, Any], operations: list[jsonpatch.JsonPatch]) -> dict[str, Any]:
    result: Any = shown
    known = shown.keys()
    for number, operation in enumerate(operations):
        result = _applied(result, number, operation)
    return without_nulls(require_object(result), known)


def _applied(value: Any, number: int, operation: jsonpatch.JsonPatch) -> Any:
    (members,) = operation.patch
    path = shortened(members["path"], FIELD_SHOWN_MAX_CHARS)
    facts: dict[str, Any] = {"operation": number, "path": path}
    try:
        result = operation.apply(value)
    except jsonpatch.JsonPatchTestFailed:
        raise ApiError(codes.PATCH_TEST_FAILED, **facts) from None
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError):
        raise ApiError(codes.PATCH_NOT_APPLICABLE, **facts) from None
    if members["op"] == "test" and not _is_same(_resolve(value, members["path"]), members["value"]):
        raise ApiError(codes.PATCH_TEST_FAILED, **facts)
    if members["op"] == "copy" and _is_too_large(result):
        raise ApiError(codes.MALFORMED_PATCH, "The patched document is too large.", **facts)
    return result


def _resolve(value: Any, pointer: str) -> Any:
    return jsonpointer.resolve_pointer(value, pointer)


def _is_same(one: Any, other: Any) -> bool:
    """Whether values are equal by RFC 6902, section 4.6. Python's `==` equates true and 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_is_same(a, b) for a, b in pairs)
    return bool(one == other)


def _is_too_large(value: Any) -> bool:
    unvisited, count = [value], 0
    while unvisited and count <= DOCUMENT_VALUES_MAX:
        each = unvisited.pop()
        count += 1
        if isinstance(each, dict):
            unvisited.extend(each.values())
        elif isinstance(each, list):
            unvisited.extend(each)
    return count > DOCUMENT_VALUES_MAX

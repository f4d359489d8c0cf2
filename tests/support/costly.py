"""Bodies that are made to cost much: small on the wire, large or long to read. And a way to count what they cost."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.support.wire import field

STEP = b"\x0a\x00"
"""A step without a feature: two bytes of which a decoder makes an object."""


def num_calls(function: Callable[[], object]) -> int:
    """Returns how often Python entered, or went on with, a function meanwhile."""
    count = 0

    def note(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def empty_steps(num_bytes: int, name: str = "rgb") -> bytes:
    """Returns a SequenceExample of about so many bytes, whose one list has nothing in its steps."""
    return field(2, _entry(name, STEP * (num_bytes // len(STEP))))


def costly_records(many: int) -> dict[str, bytes]:
    """Returns records of so many things that no video has, by what they are."""
    nothing = _entry("x", field(2, b""))
    return {
        "unknown fields": b"\x98\x06\x01" * many,
        "messages of nothing": STEP * many,
        "entries without a name": field(1, STEP * many),
        "lists without a name": field(2, STEP * many),
        "one name over and over": field(1, nothing * many),
        "integers": field(1, _entry("labels", field(3, field(1, b"\x01" * many)))),
        "byte strings": field(1, _entry("id", field(1, STEP * many))),
        "floats one by one": field(1, _entry("mean_rgb", field(2, b"\x0d\0\0\0\0" * many))),
        "lists of changing kinds": field(1, _entry("x", b"\x0a\x00\x12\x00" * many)),
        "groups in groups": b"\x1b" * many,
        "a group of many fields": b"\x1b" + b"\x08\x01" * many + b"\x1c",
        "strings of one step": field(2, _entry("rgb", field(1, field(1, STEP * many)))),
        "a list in many parts": field(2, field(1, field(1, b"rgb") + field(2, STEP) * many)),
    }


def _entry(name: str, value: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, value))


def costly_json(many: int) -> dict[str, bytes]:
    """Returns JSON bodies of so many things that no request has, by what they are."""

    def listed(part: bytes) -> bytes:
        return b",".join([part] * many)

    return {
        "videos": b'{"videos": [' + listed(b"{}") + b"]}",
        "videos in a list": b"[" + listed(b"{}") + b"]",
        "inputs": b'{"inputs": [' + listed(b"{}") + b"]}",
        "lists": b'{"videos": [' + listed(b"[]") + b"]}",
        "lists in lists": b'{"videos": ' + b"[" * many,
        "objects in objects": b'{"videos": ' * many,
        "keys": b"{" + b",".join(b'"%d":0' % index for index in range(many)) + b"}",
        "values": b'{"videos": [{"rgb": [' + listed(b"0") + b"]}]}",
        "numbers": b'{"videos": [{"mean_rgb": [' + listed(b"0.5") + b"]}]}",
        "data": b'{"inputs": [{"name": "rgb", "datatype": "UINT8", "shape": [1, 1, 8], "data": ['
        + listed(b"0")
        + b"]}]}",
        "texts": b'{"videos": [' + listed(b'""') + b"]}",
    }

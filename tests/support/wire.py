"""Bytes of protobuf's wire format."""

from __future__ import annotations


def varint(value: int, num_bytes: int = 1) -> bytes:
    """Returns a varint of at least so many bytes: leading zeros are legal."""
    value %= 1 << 64
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * (num_bytes - len(groups))
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def field(number: int, content: bytes) -> bytes:
    """Returns a field with a length: tag, length, content."""
    return varint(number << 3 | 2) + varint(len(content)) + content

"""Compiled loops over the bytes of a shard: where its records lie."""

# ruff: noqa: SIM110 - generator expressions are slower here, or not to be compiled

from __future__ import annotations

import numpy as np

from yt8m_ray.compiled import compiled

# Why `find_records` stopped: no further whole record, or what is wrong with the next one's length.
COMPLETE, BAD_CHECKSUM, BAD_LENGTH = range(3)

HEADER_BYTES, FOOTER_BYTES = 12, 4  # length and its checksum; the payload's
MAX_PAYLOAD_BYTES = 2**31 - 1  # of a message that protobuf can parse


def _crc_table() -> np.ndarray:
    # Castagnoli's polynomial, its bits in reverse; the library's function cannot be called from a compiled loop.
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_CRC_TABLE = _crc_table()


@compiled
def _is_header(data: np.ndarray, position: int) -> bool:
    """Returns whether the masked CRC-32C of the 8 bytes at `position` stands in the 4 behind them."""
    crc = np.uint32(0xFFFFFFFF)
    for index in range(8):
        crc = (crc >> np.uint32(8)) ^ _CRC_TABLE[(crc ^ data[position + index]) & np.uint32(0xFF)]
    crc ^= np.uint32(0xFFFFFFFF)
    masked = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    for index in range(4):
        if data[position + 8 + index] != (masked >> np.uint32(8 * index)) & np.uint32(0xFF):
            return False
    return True


@compiled
def _length(data: np.ndarray, position: int) -> int:
    """Returns the length at `position`, or -1 where it is beyond any message."""
    length = 0
    for index in range(4):
        length |= int(data[position + index]) << (8 * index)
        if data[position + 4 + index]:
            return -1
    return length if length <= MAX_PAYLOAD_BYTES else -1


@compiled
def find_records(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[int, int, int]:
    """Fills `starts` and `ends` with the payloads that lie whole in `data`, from its first byte on.

    Returns:
        (number of records, bytes they take with their frames, COMPLETE, BAD_CHECKSUM or BAD_LENGTH).
    """
    num_records = position = 0
    while num_records < len(starts) and position + HEADER_BYTES <= len(data):
        if not _is_header(data, position):
            return num_records, position, BAD_CHECKSUM
        length = _length(data, position)
        if length < 0:
            return num_records, position, BAD_LENGTH
        behind = position + HEADER_BYTES + length + FOOTER_BYTES
        if behind > len(data):
            break
        starts[num_records] = position + HEADER_BYTES
        ends[num_records] = position + HEADER_BYTES + length
        num_records += 1
        position = behind
    return num_records, position, COMPLETE


@compiled
def find_header(data: np.ndarray) -> int:
    """Returns the first position of a sound record header, or -1."""
    # Bytes that are none pass as a header once in 2**32 places, and once in 2**65 with a length that is possible.
    for position in range(len(data) - HEADER_BYTES + 1):
        if _length(data, position) >= 0 and _is_header(data, position):
            return position
    return -1

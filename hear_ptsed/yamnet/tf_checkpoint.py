"""Reads the float32 variables of a TensorFlow checkpoint without TensorFlow.

The index file is a sorted-string table: blocks of (key, value), keys sharing prefixes, then a
footer with the place of the index block. A value is a protobuf record: type, shape, place in the
data file. Nothing is checked: the caller knows the SHA-256 of both files.
"""

from collections.abc import Iterator

import numpy as np

FOOTER_BYTES = 48
FLOAT32 = 1


def read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """All float32 variables by name; entries of other types are left out.

    Args:
        index: contents of `variables.index`.
        data: contents of `variables.data-00000-of-00001`.
    """
    footer = index[-FOOTER_BYTES:]
    at = 0
    for _ in range(2):  # the meta-index block's offset and size come first
        _, at = _varint(footer, at)
    tensors = {}
    for _, handle in _block(index, footer[at:]):
        for key, value in _block(index, handle):
            entry = _record(value)
            if key and entry.get(1) == [FLOAT32]:  # without a key: the header
                tensors[key] = _tensor(entry, data)
    return tensors


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at an offset, and the offset behind it."""
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _block(index: bytes, handle: bytes) -> Iterator[tuple[str, bytes]]:
    """The (key, value) entries of the block whose offset and size begin `handle`."""
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block = index[offset : offset + size]
    restarts = int.from_bytes(block[-4:], "little")
    at, end, key = 0, size - 4 - 4 * restarts, b""
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key.decode(), block[at : at + length]
        at += length


def _record(data: bytes) -> dict[int, list]:
    """Fields of a protobuf message: number -> values (int, or bytes for nested messages)."""
    fields, at = {}, 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = {1: 8, 5: 4}[kind]
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _tensor(entry: dict[int, list], data: bytes) -> np.ndarray:
    dims = _record(entry.get(2, [b""])[0]).get(2, [])
    shape = [_record(dim).get(1, [0])[0] for dim in dims]
    offset, size = (entry.get(field, [0])[0] for field in (4, 5))
    return np.frombuffer(data[offset : offset + size], "<f4").reshape(shape)

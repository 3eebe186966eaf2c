"""Reads the float32 variables of a TensorFlow checkpoint without TensorFlow.

The index file is a sorted-string table: blocks of (key, value), keys sharing prefixes, then a
footer with the place of the index block. A value is a protobuf record: type, shape, place in the
data file, checksum.
"""

import math
from collections.abc import Iterator

import numpy as np

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
FLOAT32 = 1
LANE_BYTES = 64  # a checksum runs over many lanes of this length side by side

# Bytes that take the CRC register from 0 to all ones, its initial value. Since zeros in front of
# them change nothing, a message can be zero-padded in front to any length.
INITIAL = bytes.fromhex("54641f64")


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


TABLE = _crc_table()


def _feed(register: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Registers (N,) after the bytes (L, N), one column per register."""
    for byte in columns:
        register = TABLE[(register ^ byte) & 255] ^ (register >> 8)
    return register


def _apply(images: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A linear map, given by the images (32,) of the single bits, of registers (N,)."""
    out = np.zeros_like(registers)
    for bit, image in enumerate(images):
        out ^= ((registers >> np.uint32(bit)) & 1) * image
    return out


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) in numpy: lanes side by side, then neighbours joined pairwise."""
    message = INITIAL + bytes(data)
    lanes = 1 << max(0, -(-len(message) // LANE_BYTES) - 1).bit_length()
    padded = np.zeros(lanes * LANE_BYTES, np.uint8)
    padded[-len(message) :] = np.frombuffer(message, np.uint8)
    columns = np.ascontiguousarray(padded.reshape(lanes, LANE_BYTES).T)
    crc = _feed(np.zeros(lanes, np.uint32), columns)
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    skip = _feed(bits, np.zeros((LANE_BYTES, 1), np.uint8))  # what one lane of zeros does
    while len(crc) > 1:
        crc = _apply(skip, crc[::2]) ^ crc[1::2]
        skip = _apply(skip, skip)
    return int(crc[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The form stored in files: rotated right by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at an offset, and the offset behind it."""
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _block(index: bytes, handle: bytes, at: int = 0) -> Iterator[tuple[str, bytes]]:
    """The (key, value) entries of the block whose offset and size are encoded in `handle`."""
    offset, at = _varint(handle, at)
    size, _ = _varint(handle, at)
    block, trailer = index[offset : offset + size], index[offset + size : offset + size + 5]
    if len(block) != size or len(trailer) != 5 or size < 4:
        raise ValueError("checkpoint index: a block lies outside the file; the file is truncated")
    if masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError("checkpoint index: wrong checksum of a block; fetch the file again")
    if trailer[0] != 0:
        raise ValueError("checkpoint index: compressed blocks are not supported")
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
        if tag & 7 == 0:
            value, at = _varint(data, at)
        else:
            if tag & 7 == 2:
                size, at = _varint(data, at)
            else:
                size = {1: 8, 5: 4}[tag & 7]
            value, at = data[at : at + size], at + size
            if tag & 7 != 2:
                value = int.from_bytes(value, "little")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _tensor(key: str, entry: dict[int, list], data: bytes) -> np.ndarray:
    dims = _record(entry.get(2, [b""])[0]).get(2, [])
    shape = [_record(dim).get(1, [0])[0] for dim in dims]
    offset, size, crc = (entry.get(field, [0])[0] for field in (4, 5, 6))
    raw = data[offset : offset + size]
    if len(raw) != size:
        raise ValueError(f"checkpoint data: {key} ends outside the file; the file is truncated")
    if size != 4 * math.prod(shape):
        raise ValueError(f"checkpoint index: {key} has {size} bytes, not those of shape {shape}")
    if masked_crc32c(raw) != crc:
        raise ValueError(f"checkpoint data: wrong checksum of {key}; fetch the file again")
    return np.frombuffer(raw, "<f4").reshape(shape)


def read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """All float32 variables by name, checksums verified; entries of other types are left out.

    Args:
        index: contents of `variables.index`.
        data: contents of `variables.data-00000-of-00001`.
    """
    footer = index[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("not a TensorFlow checkpoint index, or truncated: wrong magic number")
    tensors = {}
    try:
        at = 0
        for _ in range(2):  # the meta-index block's offset and size come first
            _, at = _varint(footer, at)
        for _, handle in _block(index, footer, at):
            for key, value in _block(index, handle):
                entry = _record(value)
                if not key:  # the header: shards, byte order
                    if entry.get(1) != [1] or entry.get(2, [0]) != [0]:
                        raise ValueError("checkpoint: only one little-endian shard is supported")
                elif entry.get(1) == [FLOAT32]:
                    tensors[key] = _tensor(key, entry, data)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint index: malformed record ({error})") from error
    return tensors

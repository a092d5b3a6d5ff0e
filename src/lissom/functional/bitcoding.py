"""Masks as bytes: eight bits a byte, then whichever of three codes is shortest.

    raw        the bytes as they are: 1 bit a flag
    huffman    DEFLATE without matches (RFC 1951): a prefix code over the 256 bytes, for flags that are independent
    matched    DEFLATE with matches: for flags in runs

A mask with a share p of ones, independent, has an entropy of H(p) = -p log2 p - (1 - p) log2(1 - p) bits a flag
(Shannon 1948). A prefix code over bytes comes within 1/8 bit a flag of it, and never needs less than 1/8. One byte in
front names the code, so no mask of n flags takes more than n / 8 + 2 bytes.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]

RAW, HUFFMAN, MATCHED = 0, 1, 2
_STRATEGIES = {HUFFMAN: zlib.Z_HUFFMAN_ONLY, MATCHED: zlib.Z_DEFAULT_STRATEGY}
_RAW_DEFLATE = -15
"""Window bits that tell zlib to leave its header and checksum out."""


def encode(flags: Flags) -> bytes:
    """The shortest of the codes; `flags` has one axis."""
    packed = np.packbits(flags).tobytes()
    found = {RAW: packed, **{code: _deflated(packed, strategy) for code, strategy in _STRATEGIES.items()}}
    code = min(found, key=lambda one: len(found[one]))
    return bytes([code]) + found[code]


def decode(data: bytes, count: int) -> Flags:
    """The `count` flags back.

    Raises:
        ValueError: these are not the bytes of a mask of `count` flags.
    """
    if not data or data[0] not in (RAW, *_STRATEGIES):
        raise ValueError(f"a mask begins with its code, 0, 1 or 2, got {data[:1]!r}")
    try:
        packed = data[1:] if data[0] == RAW else zlib.decompress(data[1:], _RAW_DEFLATE)
    except zlib.error as wrong:
        raise ValueError(f"a damaged mask: {wrong}") from wrong
    if len(packed) != -(-count // 8):
        raise ValueError(f"a mask of {count} flags takes {-(-count // 8)} bytes, got {len(packed)}")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).astype(np.bool_)


def _deflated(data: bytes, strategy: int) -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, 9, strategy)
    return made.compress(data) + made.flush()

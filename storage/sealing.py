"""Encryption of instances and result objects at rest: a data key for each file, wrapped by a named key of the site.

A sealed file, all numbers big-endian::

    0    8   magic ``CXRSEAL1``
    8    32  id of the key that the data key is wrapped with, ASCII, padded with NUL
    40   12  nonce of the wrapping
    52   48  data key, 32 bytes, wrapped: AES-256-GCM, 16 bytes of tag
    100  4   length of a chunk, bytes of plaintext
    104  8   length of the plaintext
    112  16  reserved, zero
    128      the chunks, each AES-256-GCM under the data key: ciphertext and 16 bytes of tag

The wrapping authenticates the location of the file and the two lengths, so a file that was cut, or put in the place of
another, does not open. The nonce of a chunk is its number and whether it is the last: a chunk that was moved, repeated
or left out does not open either. A data key is made for one file, so that no nonce is used twice under it. The nonce of
a wrapping is drawn: NIST SP 800-38D allows 2^32 of them under one key, so a key is good for 4 billion files.

Rotation wraps the data key anew; the chunks stay as they are.
"""

import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from storage.errors import BytesAltered, StorageError
from storage.keys import KeyFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"CXRSEAL1"
HEADER_BYTES = 128
CHUNK_BYTES = 1 << 20
_TAG = 16
_HEADER = struct.Struct(">8s32s12s48sIQ16s")
assert _HEADER.size == HEADER_BYTES


@dataclass(frozen=True)
class Header:
    """The first 128 bytes. `key_id` names the key that wraps the data key; `size` is the length of the plaintext."""

    key_id: str
    nonce: bytes
    wrapped: bytes
    chunk_bytes: int
    size: int

    @classmethod
    def parse(cls, data: bytes, location: str) -> "Header":
        """Read the header of a sealed file.

        Raises
        ------
        BytesAltered
            It is none.
        """
        if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
            raise BytesAltered(f"{location}: expected a sealed file, found other bytes: the file was altered or cut")
        _, key_id, nonce, wrapped, chunk_bytes, size, _ = _HEADER.unpack(data[:HEADER_BYTES])
        try:
            name = key_id.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError as error:
            raise BytesAltered(f"{location}: the header names no key: the file was altered") from error
        if not chunk_bytes:
            raise BytesAltered(f"{location}: the header names a chunk of no length: the file was altered")
        return cls(name, nonce, wrapped, chunk_bytes, size)

    def to_bytes(self) -> bytes:
        """Return the 128 bytes."""
        return _HEADER.pack(
            MAGIC, self.key_id.encode("ascii"), self.nonce, self.wrapped, self.chunk_bytes, self.size, b""
        )

    @property
    def sealed_size(self) -> int:
        """Length of the whole file."""
        return HEADER_BYTES + self.size + _TAG * self.chunks

    @property
    def chunks(self) -> int:
        """Number of chunks; a file of no bytes has one."""
        return max(1, -(-self.size // self.chunk_bytes))

    def bound(self, location: str) -> bytes:
        """Return what the wrapping authenticates beside the data key."""
        return b"\0".join((MAGIC, location.encode(), struct.pack(">IQ", self.chunk_bytes, self.size)))


def seal(source: BinaryIO, target: BinaryIO, size: int, *, location: str, keys: KeyFile) -> None:
    """Write the sealed form of `size` bytes.

    Raises
    ------
    StorageError
        `source` ends before or after `size` bytes.
    """
    data_key = secrets.token_bytes(32)
    key_id, key = keys.current()
    nonce = os.urandom(12)
    header = Header(key_id, nonce, b"\0" * 48, CHUNK_BYTES, size)
    wrapped = _cipher(key).encrypt(nonce, data_key, header.bound(location))
    target.write(Header(key_id, nonce, wrapped, CHUNK_BYTES, size).to_bytes())
    cipher, left = _cipher(data_key), size
    for number in range(header.chunks):
        wanted = min(CHUNK_BYTES, left)
        chunk = source.read(wanted)
        if len(chunk) != wanted:
            raise StorageError(f"{location}: the received file is shorter than it was")
        left -= wanted
        target.write(cipher.encrypt(_chunk_nonce(number, is_last=not left), chunk, None))
    if source.read(1):
        raise StorageError(f"{location}: the received file is longer than it was")


def unseal(source: BinaryIO, *, location: str, keys: KeyFile) -> Iterator[bytes]:
    """Yield the plaintext chunk by chunk. Nothing of it may be given away before the last chunk came.

    Raises
    ------
    BytesAltered
    StorageError
        The key is not in the key file.
    """
    header = Header.parse(source.read(HEADER_BYTES), location)
    cipher = _cipher(_unwrapped(header, location, keys))
    left = header.size
    for number in range(header.chunks):
        wanted = min(header.chunk_bytes, left)
        left -= wanted
        data = source.read(wanted + _TAG)
        chunk = _opened(cipher, _chunk_nonce(number, is_last=not left), data, None)
        if chunk is None:
            raise BytesAltered(f"{location}: chunk {number} does not open: the file was altered or cut")
        yield chunk
    if source.read(1):
        raise BytesAltered(f"{location}: bytes follow the last chunk: the file was altered")


def rewrap(header: Header, *, location: str, keys: KeyFile) -> Header:
    """Return the header with the same data key under the current key."""
    data_key = _unwrapped(header, location, keys)
    key_id, key = keys.current()
    nonce = os.urandom(12)
    wrapped = _cipher(key).encrypt(nonce, data_key, header.bound(location))
    return Header(key_id, nonce, wrapped, header.chunk_bytes, header.size)


def _unwrapped(header: Header, location: str, keys: KeyFile) -> bytes:
    key = keys.get(header.key_id)
    if key is None:
        raise StorageError(
            f"{location} is sealed with key {header.key_id!r}, which {keys.path} does not hold: "
            "put the key file of that time back"
        )
    data_key = _opened(_cipher(key), header.nonce, header.wrapped, header.bound(location))
    if data_key is None:
        raise BytesAltered(
            f"{location} does not open with key {header.key_id!r} of {keys.path}: "
            "the file was altered, or that key is another one of the same name"
        )
    return data_key


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # a node that does not encrypt need not load it

    return AESGCM(key)


def _opened(cipher: "AESGCM", nonce: bytes, data: bytes, bound: bytes | None) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, data, bound)
    except InvalidTag:
        return None


def _chunk_nonce(number: int, *, is_last: bool) -> bytes:
    return struct.pack(">7xIB", number, is_last)

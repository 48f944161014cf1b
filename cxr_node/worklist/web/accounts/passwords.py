"""Passwords: Argon2id hashes, and what a password must be. Source: RFC 9106; NIST SP 800-63B 5.1.1.2."""

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MOST_CHARACTERS = 256
LEAST_CHARACTERS = 12
_hasher = PasswordHasher()  # the library's defaults are RFC 9106's second choice: 64 MiB, three passes, four lanes
_NOBODY = _hasher.hash(secrets.token_urlsafe())  # verified where there is no such user: both take the same time


def hashed(password: str) -> str:
    """Return the hash that is kept."""
    return _hasher.hash(password)


def verify(password_hash: str, password: str) -> bool:
    """Whether the password has the hash; takes as long where the hash is empty."""
    try:
        return _hasher.verify(password_hash or _NOBODY, password[:MOST_CHARACTERS]) and bool(password_hash)
    except (VerificationError, InvalidHashError):
        return False


def one_time_password() -> str:
    """Return a random password of 100 bits in groups that can be typed."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"  # 31 letters and digits that nobody confuses
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))

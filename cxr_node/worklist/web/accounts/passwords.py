"""Passwords: Argon2id hashes, and what a password must be. Source: RFC 9106; NIST SP 800-63B 3.1.1."""

import functools
import secrets
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from cxr_node.errors import CxrNodeError

MOST_CHARACTERS = 256
LEAST_CHARACTERS = 12
LEAST_DIFFERENT = 5
LEAST_BESIDES_LOGIN = 8
# Of the lists of what people choose, those that are long enough to pass here; spaces and case do not count.
_COMMON = """
password1234 passwordpassword administrator administrator1 changeme1234 changemechangeme letmeinletmein welcome12345
welcomewelcome iloveyou1234 qwertyuiop12 qwertyuiopasdf qwerty123456 1q2w3e4r5t6y 123456789abc abcdefghijkl
radiology123 radiologyradiology hospital1234 correcthorsebatterystaple
"""
AT_ONCE = 4  # each takes 64 MiB: a flood of log-ins must not take the memory of the node
WAIT_S = 1.0

_hasher = PasswordHasher()  # the library's defaults are RFC 9106's second choice: 64 MiB, three passes, four lanes
_free = threading.BoundedSemaphore(AT_ONCE)


class TooBusy(CxrNodeError):
    """More passwords are being checked than this machine should at once."""


def hashed(password: str) -> str:
    """Return the hash that is kept."""
    return _hasher.hash(_normal(password))


def verify(password_hash: str, password: str) -> bool:
    """Whether the password has the hash; takes as long where the hash is empty.

    Raises
    ------
    TooBusy
        Too many are being checked.
    """
    with _one_of_few():
        try:
            nobody = _nobody()  # in any case: the first call takes longer, and must not tell who is a user
            return _hasher.verify(password_hash or nobody, _normal(password)) and bool(password_hash)
        except (VerificationError, InvalidHashError):
            return False


@functools.cache
def _nobody() -> str:
    """Return what is verified where there is no such user: both take the same time. Not at the start, it takes long."""
    return _hasher.hash(secrets.token_urlsafe())


def is_outdated(password_hash: str) -> bool:
    """Whether the hash was made with other parameters than those of today."""
    return _hasher.check_needs_rehash(password_hash)


def problem(password: str, login: str) -> str:
    """Return what is wrong with a password that somebody chose; empty where it will do.

    Length is what counts; no rule asks for digits or signs, which people answer with "1!".
    """
    password = _normal(password)
    plain = "".join(password.casefold().split())
    if len(password) < LEAST_CHARACTERS:
        return f"The password has {len(password)} characters; it needs at least {LEAST_CHARACTERS}."
    if len(password) > MOST_CHARACTERS:
        return f"The password is longer than {MOST_CHARACTERS} characters."
    if login and (login.casefold() in plain and len(plain) - len(login) < LEAST_BESIDES_LOGIN):
        return "The password is little more than the login."
    if plain in _COMMON.split() or len(set(plain)) < LEAST_DIFFERENT or _is_run(plain):
        return "The password is one that others try first."
    return ""


def one_time_password() -> str:
    """Return a random password of 99 bits in groups that can be typed."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"  # 31 letters and digits that nobody confuses
    return "-".join("".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4))


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _free.acquire(timeout=WAIT_S):
        raise TooBusy("too many people sign in at once; try again in a few seconds")
    try:
        yield
    finally:
        _free.release()


def _normal(password: str) -> str:
    """Return one form of what keyboards write differently, no longer than anybody could mean."""
    return unicodedata.normalize("NFKC", password[: MOST_CHARACTERS + 1])


def _is_run(plain: str) -> bool:
    """Whether every character follows the one before: 123456789012, abcdefghijkl."""
    return all(ord(later) - ord(earlier) in (1, -9) for earlier, later in pairwise(plain))

"""What a password must be, and how it is kept."""

import pytest
from argon2 import PasswordHasher

from cxr_node.worklist.web.accounts import passwords

pytestmark = pytest.mark.requirement("SRS-ACC-003")


@pytest.mark.parametrize(
    "password",
    [
        *("", "short", "elevenchars", "password1234", "PASSWORD 1234", "aaaaaaaaaaaaaaa", "123456789012"),
        *("dr.roe2026!!", "abcdefghijklmnop", "ababababababab", "x" * 300),
    ],
)
def test_what_others_try_first_is_refused(password):
    """Short, common, a run, or the login itself."""
    assert passwords.problem(password, "dr.roe")


@pytest.mark.parametrize(
    "password", ["four quiet films a day", "Röntgenbild im Flur", "xK9#mvQ2$wLp", "山田 太郎 の 写真 を 見る 午後"]
)
def test_length_is_enough(password):
    """Nobody is asked for digits and signs."""
    assert passwords.problem(password, "dr.roe") == ""


def test_a_password_is_kept_as_argon2id_of_full_strength(monkeypatch):
    """RFC 9106: at least 64 MiB and three passes; the same password has two hashes."""
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher())
    first = passwords.hashed("four quiet films a day")
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.verify(first, "four quiet films a day")
    assert not passwords.verify(first, "four quiet films a dax")
    assert not passwords.is_outdated(first)


def test_keyboards_that_write_the_same_letter_differently_agree():
    """ü is one sign on a PC and two on a Mac (NFKC)."""
    assert passwords.verify(passwords.hashed("Ru\u0308ckenlage seitlich"), "R\u00fcckenlage seitlich")


@pytest.mark.parametrize("kept", ["", "no hash", "$argon2id$broken"])
def test_without_a_hash_nothing_fits(kept):
    """Who signs in at the provider has none here."""
    assert not passwords.verify(kept, "")
    assert not passwords.verify(kept, "anything")


def test_a_one_time_password_is_long_and_never_the_same():
    """It is typed from a screen: groups of letters that nobody confuses."""
    made = {passwords.one_time_password() for _ in range(200)}
    assert len(made) == 200
    for one in made:
        assert len(one.replace("-", "")) == 20
        assert not set(one) & set("il1o0")

"""One key per workspace, readable by its owner; a signature fits one message, one key, one
spelling."""

import stat
from pathlib import Path

import pytest

from rayapp.errors import TamperedError
from rayapp.register.signing import PRIVATE_KEY, TRUSTED, load_or_create_key, verify

MESSAGE = b"what is released"


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "keys")
    assert load_or_create_key(tmp_path / "keys").key_id == key.key_id
    mode = (tmp_path / "keys" / PRIVATE_KEY).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_own_signature_fits(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path)
    verify(tmp_path / TRUSTED, key.key_id, key.sign(MESSAGE), MESSAGE)


@pytest.mark.parametrize("place", [0, 31, 63])
def test_another_message_or_signature_is_refused(tmp_path: Path, place: int) -> None:
    key = load_or_create_key(tmp_path)
    signature = key.sign(MESSAGE)
    changed = bytearray.fromhex(signature)
    changed[place] ^= 1
    for sign, message in (
        (signature, MESSAGE + b"!"),
        (changed.hex(), MESSAGE),
        ("zz", MESSAGE),
    ):
        with pytest.raises(TamperedError, match="does not fit"):
            verify(tmp_path / TRUSTED, key.key_id, sign, message)


def test_the_same_signature_in_capitals_is_refused(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path)
    with pytest.raises(TamperedError, match="does not fit"):
        verify(tmp_path / TRUSTED, key.key_id, key.sign(MESSAGE).upper(), MESSAGE)


def test_a_key_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    stranger = load_or_create_key(tmp_path / "theirs")
    ours = load_or_create_key(tmp_path / "ours")
    with pytest.raises(TamperedError, match=ours.key_id) as caught:
        verify(
            tmp_path / "ours" / TRUSTED,
            stranger.key_id,
            stranger.sign(MESSAGE),
            MESSAGE,
        )
    assert stranger.key_id in caught.value.what


def test_another_key_under_a_trusted_name_is_refused(tmp_path: Path) -> None:
    stranger = load_or_create_key(tmp_path / "theirs")
    ours = load_or_create_key(tmp_path / "ours")
    trusted = tmp_path / "ours" / TRUSTED
    public = tmp_path / "theirs" / TRUSTED / f"{stranger.key_id}.pub"
    (trusted / f"{ours.key_id}.pub").write_bytes(public.read_bytes())
    with pytest.raises(TamperedError, match="is not the public key"):
        verify(trusted, ours.key_id, stranger.sign(MESSAGE), MESSAGE)


def test_a_damaged_private_key_is_told_not_replaced(tmp_path: Path) -> None:
    load_or_create_key(tmp_path)
    (tmp_path / PRIVATE_KEY).write_bytes(b"no key")
    with pytest.raises(TamperedError, match="not an Ed25519 private key"):
        load_or_create_key(tmp_path)
    assert (tmp_path / PRIVATE_KEY).read_bytes() == b"no key"

"""Where the keys of reply tokens come from, and that they stay."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from mailagent.adapters.keys import FILE, keys_at_hand, token_keys
from mailagent.core.errors import ConfigError
from mailagent.core.token import make, read
from mailagent.core.values import ThreadId

THREAD, SENDER = ThreadId("a" * 16), "customer@example.org"


def test_the_first_start_makes_a_key_and_the_next_reads_it(tmp_path: Path) -> None:
    assert keys_at_hand("", tmp_path) == ()
    assert list(tmp_path.iterdir()) == []
    (key,) = token_keys("", tmp_path)
    assert len(key.secret) == 32
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert token_keys("", tmp_path) == keys_at_hand("", tmp_path) == (key,)
    assert token_keys("", tmp_path.parent) != (key,)


def test_what_a_crash_left_is_no_key(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.0123456789abcdef").write_text("")
    (key,) = token_keys("", tmp_path)
    assert token_keys("", tmp_path) == (key,)


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(token_keys, [("", tmp_path)] * 8)
    assert set(found) == {token_keys("", tmp_path)}


def test_the_key_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().name.split(".")[0])

    monkeypatch.setattr(os, "fsync", fsync)
    token_keys("", tmp_path)
    assert synced == ["token", tmp_path.name]


def test_the_secret_wins_and_nothing_is_made(tmp_path: Path) -> None:
    (key,) = token_keys("ab" * 32, tmp_path)
    assert key.secret == b"\xab" * 32
    assert list(tmp_path.iterdir()) == []


def test_a_new_key_signs_and_the_old_one_still_verifies(tmp_path: Path) -> None:
    (old,) = token_keys("", tmp_path)
    token = make(old, THREAD, 1, SENDER)
    file = tmp_path / FILE
    file.write_text("cd" * 32 + "\n" + file.read_text())
    keys = token_keys("", tmp_path)
    assert keys == (keys[0], old)
    assert keys[0].secret == b"\xcd" * 32
    assert read(token, keys, SENDER) == THREAD
    file.write_text("cd" * 32)
    assert read(token, token_keys("", tmp_path), SENDER) is None
    assert read(make(keys[0], THREAD, 2, SENDER), token_keys("", tmp_path), SENDER) == THREAD


@pytest.mark.parametrize("text", ["", "\n", "short", "ab" * 31, "ab" * 33, "zz" * 32, f"{'ab' * 32}\nab", "ä" * 64])
def test_what_is_no_key_is_a_fault_that_does_not_repeat_it(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"64 hexadecimal digits") as caught:
        token_keys("", tmp_path)
    assert not text.strip() or text not in str(caught.value)
    assert (tmp_path / FILE).read_text() == text


def test_a_directory_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="no key for reply tokens"):
        token_keys("", tmp_path)
    tmp_path.chmod(0o700)


def test_a_key_that_is_not_ours_to_read_is_a_fault_for_the_daemon_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("ab" * 32)
    (tmp_path / FILE).chmod(0)
    assert keys_at_hand("", tmp_path) == ()
    with pytest.raises(ConfigError, match="cannot be read"):
        token_keys("", tmp_path)

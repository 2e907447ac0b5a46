"""A file is written wholly or not at all."""

import errno
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from sb3_rlx2.files import atomic
from sb3_rlx2.files.atomic import replacing

# The module alone, which imports quickly
WRITE_ON_AND_ON = """
import runpy, sys
replacing = runpy.run_path(sys.argv[2])["replacing"]
print("ready", flush=True)
for number in range(10**9):
    with replacing(sys.argv[1]) as file:
        for _ in range(40):
            file.write(b"%d\\n" % number * 1000)
"""


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def write(path, content):
    with replacing(path) as file:
        file.write(content)


def test_a_file_is_what_was_written(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"", b"three" * 100_000):
        write(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["file"]


def test_text_is_written_in_the_given_encoding_and_with_the_given_line_ends(tmp_path):
    with replacing(tmp_path / "file", "w", encoding="latin-1", newline="") as file:
        file.write("ä\n")
    assert (tmp_path / "file").read_bytes() == b"\xe4\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_the_file_is_what_it_was_and_nothing_is_left(tmp_path, error):
    write(tmp_path / "file", b"before")
    for name in ("file", "new"):
        with suppress(error), replacing(tmp_path / name) as file:
            file.write(b"after")
            raise error
    assert (tmp_path / "file").read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_file_as_it_was_and_nothing_else(tmp_path, monkeypatch, step):
    write(tmp_path / "file", b"before")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


def test_a_write_that_the_system_refuses_leaves_the_file_as_it_was_and_nothing_else(tmp_path):
    write(tmp_path / "file", b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(tmp_path / "file", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (tmp_path / "file").read_bytes() == b"before"
    assert names(tmp_path) == ["file"]


def test_killed_at_any_moment_the_file_is_whole_and_the_next_write_removes_what_is_left(tmp_path):
    path = tmp_path / "file"
    write(path, b"-1\n" * 40_000)
    wait = random.Random(0)
    left = 0
    for _ in range(8):
        command = [sys.executable, "-c", WRITE_ON_AND_ON, str(path), atomic.__file__]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(wait.uniform(0.0, 0.03))
            process.kill()
        lines = path.read_bytes().splitlines()
        assert len(lines) == 40_000
        assert len(set(lines)) == 1
        left += len(names(tmp_path)) - 1
    assert left > 0  # it was killed in the middle of a write
    write(path, b"after")
    assert names(tmp_path) == ["file"]


def test_what_another_writer_is_writing_is_not_removed(tmp_path):
    with replacing(tmp_path / "file") as first:
        first.write(b"first")
        write(tmp_path / "file", b"second")
        assert (tmp_path / "file").read_bytes() == b"second"
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


def test_files_of_similar_names_are_not_taken_for_what_a_killed_process_left(tmp_path):
    others = [".file.12345678.tmp.txt", ".file.tmp", ".file.backup00.tmp", "file.12345678.tmp", ".file2.12345678.tmp"]
    for other in others:
        (tmp_path / other).touch()
    (tmp_path / ".file.12345678.tmp").touch()
    write(tmp_path / "file", b"")
    assert names(tmp_path) == sorted([*others, "file"])


def test_a_file_keeps_its_permissions_and_a_new_one_has_the_usual_ones(tmp_path):
    write(tmp_path / "new", b"")
    (tmp_path / "usual").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    write(tmp_path / "new", b"again")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_what_a_symbolic_link_points_to_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "file", b"before")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"after"


def test_what_is_no_ordinary_file_is_written_directly():
    write("/dev/null", b"content")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_names_as_long_as_can_be_are_possible(tmp_path):
    name = "ä" * 120 + "0123456789"
    write(tmp_path / name, b"content")
    assert names(tmp_path) == [name]


def test_a_folder_that_is_missing_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/file'"):
        write(tmp_path / "missing" / "file", b"")

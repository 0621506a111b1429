"""Files that appear whole, and folders in which one process works at a time."""

import os
import subprocess
import sys

import pytest

from minivitpose import files
from minivitpose.files import BusyError, alone_in, replacing

HOLD = "import sys, minivitpose.files as f\nwith f.alone_in(sys.argv[1]): print('held', flush=True); sys.stdin.read()"

locks = pytest.mark.skipif(files.fcntl is None, reason="this system has no such locks")


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_around_the_renaming_stays_an_interrupt(tmp_path, monkeypatch, before):
    def rename(source, target):
        if not before:
            real(source, target)
        raise KeyboardInterrupt

    real = os.replace
    monkeypatch.setattr(os, "replace", rename)
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == (b"old" if before else b"new")


def test_what_must_last_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_size) or sync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or rename(*names))
    for lasting, expected in ((False, ["renamed"]), (True, [3, "renamed"])):
        with replacing(tmp_path / "a", lasting=lasting) as file:
            file.write(b"new")
        assert done == expected
        done.clear()


@locks
def test_a_second_one_is_refused_and_a_third_is_not(tmp_path):
    said = pytest.raises(BusyError, match=f"another minivitpose is writing into {tmp_path}: wait for its end")
    with alone_in(tmp_path), said, alone_in(tmp_path):
        raise AssertionError("two at once")
    with alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@locks
def test_an_error_inside_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), alone_in(tmp_path):
        raise ZeroDivisionError
    with alone_in(tmp_path):
        pass


@locks
def test_a_killed_process_lets_go(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(BusyError), alone_in(tmp_path):
        pass
    other.kill()
    other.communicate()
    with alone_in(tmp_path):
        pass


@locks
def test_where_there_are_no_locks_work_goes_on(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
    monkeypatch.setattr(files, "fcntl", None)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass

"""Files and folders are written whole or not at all, by one process at a time; what the disk refuses is one line."""

import errno
import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from lesionforge.errors import BadInput
from lesionforge.files import PARTIAL, clear_stale, read_json, write_folder_whole, write_json, write_whole


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), write_whole(path, "w") as file:
        print("new", file=file, end=b"")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TypeError), write_folder_whole(tmp_path / "a") as folder:
        (folder / "half").write_text(b"x")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / f".a{PARTIAL}"
    (left / "inner").mkdir(parents=True)
    (left / "half").write_text("x")
    with write_folder_whole(tmp_path / "a") as folder:
        assert not list(folder.iterdir())
        (folder / "whole").write_text("y")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "whole"]


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with write_folder_whole(tmp_path / "a") as folder:
        (folder / "whole").write_text("y")
    with pytest.raises(BadInput, match="exists already; name another folder"), write_folder_whole(tmp_path / "a"):
        pass


def hold(path: Path, held: Event, let_go: Event) -> None:
    with write_folder_whole(path) as folder:
        (folder / "mine").write_text("x")
        held.set()
        let_go.wait(60)


def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "a", held, let_go))
    process.start()
    assert held.wait(60)
    with pytest.raises(BadInput, match="another lesionforge is at work on it"), write_folder_whole(tmp_path / "a"):
        pass
    let_go.set()
    process.join(60)
    assert (tmp_path / "a" / "mine").read_text() == "x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_that_names_the_path(tmp_path: Path, number: int) -> None:
    full = r"a\.bin: cannot be written, the disk is full .*MiB free"
    with pytest.raises(BadInput, match=full), write_whole(tmp_path / "a.bin"):
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_a_path_below_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below" / "a"
    for attempt in (write_folder_whole(below), write_whole(below)):
        with pytest.raises(BadInput, match=r"cannot be written \(Not a directory\)"), attempt:
            pass


def test_json_that_is_none_is_one_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"one": 1})
    assert read_json(tmp_path / "a.json") == {"one": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(BadInput, match=r"not JSON .*make it anew"):
        read_json(tmp_path / "a.json")
    with pytest.raises(BadInput, match="no such file"):
        read_json(tmp_path / "b.json")


def test_what_a_killed_writer_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    """A living writer's file is locked, and stays."""
    (tmp_path / f".a.bin.1{PARTIAL}").write_bytes(b"stale")
    (tmp_path / f".b.bin.1{PARTIAL}").write_bytes(b"of another file")
    with write_whole(tmp_path / "a.bin") as living:
        living.write(b"first")
        clear_stale(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f".a.bin.{os.getpid()}{PARTIAL}"]
    assert (tmp_path / "a.bin").read_bytes() == b"first"


def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be read \(Is a directory\)"):
        read_json(tmp_path)


def clear_until(folder: Path, over: Event) -> None:
    while not over.is_set():
        clear_stale(folder)


def test_a_file_just_begun_is_not_lost_to_a_process_that_clears_stale_ones(tmp_path: Path) -> None:
    """Between its making and its lock a new file looks stale: a third of these writings lost theirs before."""
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    process = context.Process(target=clear_until, args=(tmp_path, over))
    process.start()
    try:
        for number in range(300):
            with write_whole(tmp_path / "a.bin") as file:
                file.write(number.to_bytes(2))
            assert (tmp_path / "a.bin").read_bytes() == number.to_bytes(2)
    finally:
        over.set()
        process.join(60)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]

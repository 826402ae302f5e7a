"""What may come out of an archive, and what is left when the process dies."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from gsam.eval.archives import move_whole, unpack, unpacking

from .official import imagenet_r, jpegs, tree, write_tar, write_zip

ROOT = Path(__file__).parents[3]
PHOTO = jpegs()[0]


def place(path):
    return "/".join(path.parts[-2:])


def silent(*numbers):
    pass


def take(archive, to):
    with unpacking(archive, to) as folder:
        unpack(archive, folder, place, silent)
        move_whole(folder / "a", to / "a")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
def test_pictures_come_out_as_they_went_in_and_nothing_else_does(mode, tmp_path):
    wanted = {f"a/{i}.JPEG": photo for i, photo in enumerate(jpegs())}
    files = [(f"top/{name}", photo) for name, photo in wanted.items()]
    files += [("top/README.txt", b"words"), ("top/a/._1.JPEG", b"x")]
    archive = write_zip(tmp_path / "x", files) if mode == "zip" else write_tar(tmp_path / "x", files, mode)
    numbers = []
    unpack(archive, tmp_path / "out", place, lambda *now: numbers.append(now))
    assert tree(tmp_path / "out") == wanted
    size = archive.stat().st_size
    assert numbers[-1] == (size, size, len(wanted)) and [n for *_, n in numbers] == [
        *range(1, len(wanted) + 1),
        len(wanted),
    ]
    assert all(done <= size for done, _, _ in numbers)


@pytest.mark.parametrize("name", ["../../evil/a/1.jpg", "top/../../a/1.jpg"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_paths_that_lead_outside_are_refused(write, name, tmp_path):
    archive = write(tmp_path / "x", [("a/0.jpg", PHOTO), (name, PHOTO)])
    with pytest.raises(ValueError, match="outside"):
        take(archive, tmp_path / "in" / "out")
    assert set(tree(tmp_path)) == {"x"}


@pytest.mark.parametrize("name", ["/a/1.jpg", "C:\\a\\1.jpg"])
def test_absolute_paths_of_a_zip_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="outside"):
        take(write_zip(tmp_path / "x", [(name, PHOTO)]), tmp_path / "out")


def test_links_are_not_followed(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    write_tar(tmp_path / "x", [("a/0.jpg", PHOTO)])
    with tarfile.open(tmp_path / "x", "a") as tar:
        link = tarfile.TarInfo("a/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "0.jpg"
        tar.addfile(link)
    take(tmp_path / "x", tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"a/0.jpg"}
    with tarfile.open(tmp_path / "x", "a") as tar:
        link.name, link.linkname = "a/2.jpg", str(tmp_path / "secret.jpg")
        tar.addfile(link)
    with pytest.raises(ValueError, match="no official archive"):
        take(tmp_path / "x", tmp_path / "again")


def cut(archive, share):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    return archive


def damaged(archive):
    data = bytearray(archive.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    archive.write_bytes(bytes(data))
    return archive


@pytest.mark.parametrize(
    "make",
    [
        lambda path: cut(write_tar(path, imagenet_r()), 0.6),
        lambda path: cut(write_tar(path, imagenet_r(), "w:gz"), 0.6),
        lambda path: damaged(write_tar(path, imagenet_r(), "w:gz")),
        lambda path: cut(write_zip(path, imagenet_r()), 0.6),
        lambda path: damaged(write_zip(path, imagenet_r())),
        lambda path: (path.write_bytes(b"<html>404 Not Found</html>" * 100), path)[1],
    ],
    ids=["tar cut", "gz cut", "gz damaged", "zip cut", "zip damaged", "web page"],
)
def test_a_damaged_download_is_one_message_and_leaves_nothing(make, tmp_path):
    archive = make(tmp_path / "x")
    with pytest.raises(ValueError, match="incomplete or damaged download"):
        take(archive, tmp_path / "out")
    assert not tree(tmp_path / "out") and not list((tmp_path / "out").iterdir())


def test_two_pictures_of_one_place_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two pictures for a/0.jpg"):
        take(write_tar(tmp_path / "x", [("one/a/0.jpg", PHOTO), ("two/a/0.jpg", PHOTO)]), tmp_path / "out")


def test_an_archive_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no picture"):
        take(write_tar(tmp_path / "x", [("README.txt", b"words")]), tmp_path / "out")


def test_a_full_disk_is_said_before_any_work(tmp_path):
    archive = tmp_path / "x.tar"
    with open(archive, "wb") as file:
        try:
            os.truncate(file.fileno(), os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks * 2)
        except OSError:
            pytest.skip("this file system has no files larger than itself")
    with pytest.raises(ValueError, match="are free; choose another --to"):
        take(archive, tmp_path / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.sets.test_archives import place
from gsam.eval.archives import unpack, unpacking

def die(done, total, pictures):
    if pictures == 120:
        os.kill(os.getpid(), signal.SIGKILL)

with unpacking(Path({archive!r}), Path({to!r})) as folder:
    unpack(Path({archive!r}), folder, place, die)
"""


def test_a_killed_run_leaves_no_final_folder_and_the_next_one_continues(tmp_path):
    photos = [(f"a/{name.replace('/', '-')}", photo) for name, photo in imagenet_r()]
    archive, to = write_tar(tmp_path / "x", photos), tmp_path / "out"
    code = KILLED.format(root=str(ROOT), archive=str(archive), to=str(to))
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == -9
    (hidden,) = to.iterdir()
    assert hidden.name.startswith(".x.") and len(tree(hidden)) == 120
    first, *_, torn = sorted(hidden.rglob("*.jpg"), key=lambda path: path.stat().st_mtime_ns)
    before = first.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:50])  # killed in the middle of a file
    take(archive, to)
    assert [path.name for path in to.iterdir()] == ["a"]
    assert tree(to) == dict(photos)
    assert (to / "a" / first.name).stat().st_mtime_ns == before  # kept, not written again


def test_two_processes_do_not_unpack_the_same(tmp_path):
    archive = write_tar(tmp_path / "x", [("a/0.jpg", PHOTO)])
    with unpacking(archive, tmp_path / "out") as folder:
        with pytest.raises(RuntimeError, match="by another process"), unpacking(archive, tmp_path / "out"):
            pass
        assert folder.exists()

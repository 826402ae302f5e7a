"""Small archives and folders in the official layouts: the real class names, one real photograph or few per class."""

import hashlib
import io
import itertools
import tarfile
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from gsam.data.sources import imagenet_synsets
from gsam.eval.layouts import class_list
from tests.photos import pieces

Files = Iterable[tuple[str, bytes]]
V2 = "imagenetv2-matched-frequency-format-val"


@cache
def jpegs(side: int = 32) -> list[bytes]:
    """Twelve different photographs, `side` pixels square."""
    found = []
    for picture in pieces(12, seed=5):
        file = io.BytesIO()
        picture.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        found.append(file.getvalue())
    return found


def in_folders(top: str, folders: Iterable[str], ending: str = "jpg", each: int = 1, side: int = 32) -> Files:
    photos = itertools.cycle(jpegs(side))
    for folder in folders:
        for number in range(each):
            yield f"{top}{folder}/{folder.rpartition('/')[2]}_{number}.{ending}", next(photos)


def imagenet_r() -> Files:
    return in_folders("imagenet-r/", class_list("imagenet_r"))


def imagenet_a() -> Files:
    return in_folders("imagenet-a/", class_list("imagenet_a"))


def imagenet_v2(top: str = V2) -> Files:
    return in_folders(f"{top}/", sorted(map(str, range(1000))), "jpeg")


def sketch() -> Files:
    return in_folders("sketch/", imagenet_synsets(), "JPEG")


def imagenet_c(*corruptions: str, top: str = "", severities: Iterable[int] = range(1, 6), side: int = 8) -> Files:
    pairs = [f"{corruption}/{severity}" for corruption in corruptions for severity in severities]
    return in_folders(top, (f"{pair}/{wnid}" for pair in pairs for wnid in imagenet_synsets()), "JPEG", side=side)


def val_flat(n: int = 1000) -> Files:
    return [
        (f"ILSVRC2012_val_{i + 1:08d}.JPEG", photo)
        for i, photo in zip(range(n), itertools.cycle(jpegs()), strict=False)
    ]


def write_tar(path: Path, files: Files, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def write_folder(root: Path, files: Files) -> Path:
    for name, data in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_devkit(path: Path, classes: list[int]) -> str:
    """ILSVRC2012_devkit_t12.tar.gz as torchvision reads it: picture i is of ImageNet's class classes[i]; returns its MD5.

    The devkit numbers classes in another order than the WordNet ids, here backwards.
    """
    wnids = imagenet_synsets()[::-1]
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(i + 1, wnid, "a word", "a gloss", 0) for i, wnid in enumerate(wnids)], dtype=fields)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    truth = "".join(f"{1000 - label}\n" for label in classes)
    data = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth.encode()}
    write_tar(path, [(f"ILSVRC2012_devkit_t12/data/{name}", content) for name, content in data.items()], "w:gz")
    return hashlib.md5(path.read_bytes()).hexdigest()


def tree(root: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file below, hidden ones too."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

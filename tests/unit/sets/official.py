"""Small archives and folders in the official layouts: the real class names, one real photograph or few per class."""

import hashlib
import importlib.resources
import io
import itertools
import json
import os
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
    return [_jpeg(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pieces(12, seed=5)]


@cache
def photographs() -> list[bytes]:
    """A photograph of many shapes for each of ImageNet's 1000 classes, all different, at most 64 pixels."""
    found = pieces(1000, seed=6)
    for picture in found:
        picture.thumbnail((64, 64), Image.Resampling.BICUBIC)
    return [_jpeg(picture) for picture in found]


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def label_of(folder: str) -> int:
    return int(folder) if folder.isdigit() else imagenet_synsets().index(folder)


def in_folders(top: str, folders: Iterable[str], ending: str = "jpg", each: int = 1) -> Files:
    """<top><folder>/<file>, `each` times the class's photograph."""
    for folder in folders:
        for number in range(each):
            yield f"{top}{folder}/{folder}_{number}.{ending}", photographs()[label_of(folder)]


def imagenet_r() -> Files:
    return in_folders("imagenet-r/", class_list("imagenet_r"))


def imagenet_a() -> Files:
    return in_folders("imagenet-a/", class_list("imagenet_a"))


def imagenet_v2(top: str = V2) -> Files:
    return in_folders(f"{top}/", sorted(map(str, range(1000))), "jpeg")


def sketch() -> Files:
    return in_folders("sketch/", imagenet_synsets(), "JPEG")


def imagenet_c(*corruptions: str, top: str = "", severities: Iterable[int] = range(1, 6), side: int = 8) -> Files:
    photos = jpegs(side)
    for corruption, severity in itertools.product(corruptions, severities):
        for label, wnid in enumerate(imagenet_synsets()):
            name = f"ILSVRC2012_val_{label + 1:08d}.JPEG"
            yield f"{top}{corruption}/{severity}/{wnid}/{name}", photos[label % len(photos)]


def val_flat() -> Files:
    return [(f"ILSVRC2012_val_{i + 1:08d}.JPEG", photo) for i, photo in enumerate(photographs())]


def val(shift: int = 0) -> Files:
    """A picture per class, numbered like one of ImageNet's whose ReaL label is this class; shift: added to the number."""
    lists = json.loads(importlib.resources.files("timm.data").joinpath("_info/imagenet_real_labels.json").read_text())
    number: dict[int, int] = {}
    for i, labels in enumerate(lists):
        if len(labels) == 1:
            number.setdefault(labels[0], i + 1)
    for label, wnid in enumerate(imagenet_synsets()):
        at = number.get(label, 50_000 - label) + shift
        yield f"val/{wnid}/ILSVRC2012_val_{at:08d}.JPEG", photographs()[label]


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
    """Equal pictures are one file with several names: do not write into them, replace them."""
    written: dict[bytes, Path] = {}
    for name, data in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data in written:
            os.link(written[data], path)
        else:
            path.write_bytes(data)
            written[data] = path
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


def pixels(jpeg: bytes) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))

"""Every picture of a data set read once: as files, and as stored in its .beton files. For gsam.data.doctor."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gsam.data import DataConfig, class_names, ffcv_root, open_source
from gsam.data import ffcv_guard as guard
from gsam.data.checks import cores
from gsam.data.checksum import checksum
from gsam.data.ffcv import stored_labels
from gsam.data.ilsvrc import COUNTS
from gsam.data.manifest import beton_path, read_manifest
from gsam.data.opencv import one_threaded
from gsam.data.sources import Source
from gsam.data.write import sha256
from gsam.eval.inspection import Finding

SHOWN = 3  # examples in a line
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "bmp": "BMP", "webp": "WEBP", "ppm": "PPM"}

Report = Callable[[int, int], None]


class Seen(NamedTuple):
    """One picture: hash of what is stored of it, what is wrong with it, what is unusual about it."""

    digest: bytes
    problem: str = ""
    unusual: str = ""


@dataclass
class Split:
    """What was seen of one split: a line per picture, in its order."""

    name: str
    describe: Callable[[int], str]
    labels: np.ndarray
    seen: list[Seen] = field(default_factory=list)


def pictures(data: DataConfig, split: str, report: Report) -> tuple[Split, list[Finding]]:
    """The files of a split. Raises ValueError as `open_source` does."""
    source = open_source(data.name, data.root, split)
    found = _each(lambda index: _file(source, index), len(source), report)
    result = Split(split, source.describe, source.labels, found)
    counted = [*_counted(result, source.classes), *_published(data, split, len(source))]
    return result, [*counted, _broken(result, "replace or remove them"), _unusual(result)]


def stored(data: DataConfig, split: str, report: Report) -> tuple[Split, list[Finding]]:
    """The samples of a .beton. Raises ValueError if there is no manifest, or no such file."""
    path, manifest = beton_path(ffcv_root(data), split), read_manifest(ffcv_root(data), split)
    with guard.importing():
        from ffcv.reader import Reader
    try:
        reader = Reader(path)
    except (AssertionError, ValueError, IndexError, OSError) as error:
        raise ValueError(f"{path} is not a readable .beton file ({type(error).__name__}: {error})") from error
    name = f"{split}.beton"
    columns = {field: guard.stored(reader, field) for field in reader.field_names}
    labels = stored_labels(reader, manifest, path)
    sizes = np.sort(reader.alloc_table, order="sample_id")["size"]
    content = np.memmap(path, np.uint8, "r")
    found = _each(lambda index: _sample(content, columns, sizes, index), len(labels), report)
    classes = manifest["classes"]
    result = Split(name, lambda index: f"sample {index} (class {classes[labels[index]]})", labels, found)
    way = "copy the file again if the original is good, else write it with scripts/write_ffcv.py --overwrite"
    findings = [
        *_counted(result, classes),
        *_published(data, split, len(labels)),
        _broken(result, way),
        _whole(path, name, manifest),
        _order(data, split, classes),
    ]
    return result, findings


def twice(splits: Sequence[Split]) -> Finding:
    """Pictures that are in training and evaluation both, and those of one split with two labels."""
    first = {}
    across, disagree, same = [], [], 0
    for split in splits:
        for index, seen in enumerate(split.seen):
            other, number = first.setdefault(seen.digest, (split, index))
            if (other, number) == (split, index):
                continue
            pair = f"{split.name} {split.describe(index)} is {other.name} {other.describe(number)}"
            if other is not split:
                across.append(pair)
            elif other.labels[number] != split.labels[index]:
                disagree.append(pair)
            else:
                same += 1
    text = (
        f"{len(across)} pictures are in both splits, {len(disagree)} in two classes of one split, {same} in one class"
    )
    listed = "; ".join((across + disagree)[:SHOWN])
    way = "evaluation would count what was trained on: remove one of each pair" if across else ""
    return Finding("same picture twice", not (across or disagree), text + (f": {listed}" if listed else ""), way)


def _each(look: Callable[[int], Seen], count: int, report: Report) -> list[Seen]:
    found = []
    with ThreadPool(cores()) as pool:
        for seen in pool.imap(look, range(count), chunksize=16):
            found.append(seen)
            report(len(found), count)
    return found


def _file(source: Source, index: int) -> Seen:
    if source.in_memory:
        return Seen(_digest(source[index][0]))
    path = source.describe(index)
    try:
        pixels = source[index][0]
    except ValueError as error:
        return Seen(hashlib.blake2b(path.encode(), digest_size=16).digest(), str(error))
    unusual = _kind(path)
    return Seen(_digest(pixels), "", unusual)


def _kind(path: str) -> str:
    """A colour mode that is converted, an ending that is not the format: harmless here, not for every other program."""
    try:
        with Image.open(path) as picture:
            wanted = FORMATS.get(path.rpartition(".")[2].lower(), picture.format)
            return (
                ""
                if (picture.mode, picture.format) == ("RGB", wanted)
                else f"{picture.mode} {picture.format}"
                + (f" named .{path.rpartition('.')[2]}" if picture.format != wanted else "")
            )
    except OSError:  # a picture inside an archive: its path is no file
        return ""


def _sample(content: np.ndarray, columns: dict[str, np.ndarray], sizes: np.ndarray, index: int) -> Seen:
    cv2 = one_threaded()
    picture = columns["image"][index]
    start, height, width = int(picture["data_ptr"]), int(picture["height"]), int(picture["width"])
    data = np.asarray(content[start : start + int(sizes[index])])
    digest = _digest(data)
    if checksum(data) != columns["checksum"][index]:
        return Seen(digest, "is not what was written: its checksum differs")
    if picture["mode"] == 1:
        return Seen(digest, "" if data.size == 3 * height * width else "has another size than its pixels need")
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
    good = pixels is not None and pixels.shape == (height, width, 3)
    return Seen(digest, "" if good else "cannot be decoded")


def _digest(data: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(data), digest_size=16).digest()


def _counted(split: Split, classes: Sequence[str]) -> Iterator[Finding]:
    counts = np.bincount(split.labels, minlength=len(classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    text = (
        f"{len(split.labels):,} in {len(classes):,} classes, {counts[least]:,} ({classes[least]}) to {counts[most]:,} "
        f"({classes[most]}) each"
    )
    yield Finding(f"{split.name} pictures", bool(counts.min() > 0), text, "" if counts.min() else "a class is empty")


def _published(data: DataConfig, split: str, count: int) -> Iterator[Finding]:
    if data.name == "imagenet":
        good = count == COUNTS[split]
        text = f"{count:,} of the {COUNTS[split]:,} that were published"
        yield Finding(f"{split} complete", good, text, "" if good else "unpack the official archive again")


def _broken(split: Split, way_out: str) -> Finding:
    bad = [f"{split.describe(index)} {seen.problem}" if split.name.endswith("beton") else seen.problem
           for index, seen in enumerate(split.seen) if seen.problem]  # fmt: skip
    text = f"{len(bad)} of {len(split.seen):,} cannot be read: {'; '.join(bad[:SHOWN])}" if bad else "every picture"
    return Finding(f"{split.name} readable", not bad, text, way_out if bad else "")


def _unusual(split: Split) -> Finding:
    kinds = Counter(seen.unusual for seen in split.seen if seen.unusual)
    text = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return Finding(
        f"{split.name} formats", None if kinds else True, f"read as RGB: {text}" if kinds else "RGB, as named"
    )


def _whole(path: str, name: str, manifest: dict[str, Any]) -> Finding:
    good = sha256(path, f"{name}, checksum, MiB", lambda *_: None) == manifest["sha256"]
    text = (
        "that of its manifest" if good else "another than its manifest says: the file has changed since it was written"
    )
    return Finding(f"{name} sha256", good, text, "" if good else "copy or write it again")


def _order(data: DataConfig, split: str, classes: list[str]) -> Finding:
    """Labels of the file against the folders now, where they are."""
    what = f"{split}.beton classes"
    try:
        names = list(class_names(data.name, data.root, split))
    except ValueError:
        return Finding(what, None, "not compared: the pictures are not in --root")
    if names == classes:
        return Finding(what, True, f"the {len(names):,} of --root in the same order")
    text = f"--root has {names[:SHOWN]} ... now, the file {classes[:SHOWN]} ...: labels would mean other classes"
    return Finding(what, False, text, "write the file again, or give the folders it was written from")

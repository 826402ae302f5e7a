"""Which set lies in a folder, and whether it is the one that was published: what needs no model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gsam.data import subset
from gsam.data.checks import cores
from gsam.data.sources import Source, imagenet_synsets

from . import layouts
from .evalsets import EvalSet, check, open_pictures, origin, rows
from .prepare import C_ARCHIVES, COPIES, SETS, Target, stated

SAMPLE = 2000  # pictures that are decoded unless all are asked for
REAL_SCORED = 46_837  # of the 50,000 validation pictures; the others have no ReaL label
ONE_NAME_EACH = ("imagenet", "imagenet_c", "imagenet_v2", "imagenet_v2_threshold", "imagenet_v2_top")


class Finding(NamedTuple):
    """A line of the doctor's table. ok: None = neither right nor wrong, worth knowing."""

    what: str
    ok: bool | None
    text: str
    way_out: str = ""


def recognise(root: Path) -> tuple[Target, Path]:
    """The set whose official layout a folder has, and its root. Raises ValueError, with what was found, if none fits."""
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give the folder of one set")
    folders = {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}
    targets = {target.key: target for group in SETS.values() for target in group}
    if len(folders & set(map(str, range(1000)))) > 500:
        v2 = [target for target in SETS["v2"] if target.word in root.resolve().name.replace("_", "-")]
        return (v2 or [targets["imagenet_v2"]])[0], root
    if folders & set(COPIES):
        return targets["imagenet_c"], root
    if "val" in folders and _like(_folders(root / "val"), imagenet_synsets()) > 0.5:
        return targets["imagenet"], root
    lists = {name: layouts.class_list(name) for name in layouts.CLASS_LISTS} | {"imagenet_sketch": imagenet_synsets()}
    best = max(lists, key=lambda name: _like(folders, lists[name]))
    if _like(folders, lists[best]) > 0.5:
        return _of_ids(targets, best, root)
    below = [root / name for name in sorted(folders) if name in {target.folder for target in targets.values()}]
    if below or len(folders) == 1:
        where = below or [root / name for name in folders]
        raise ValueError(f"{root} is no set itself; give one folder: {', '.join(map(str, where))}")
    raise ValueError(
        f"{root} has none of the official layouts (its folders: {', '.join(sorted(folders)[:5]) or 'none'}); known are "
        f"{', '.join(target.folder for target in targets.values())}; --set names the set if its folders are incomplete"
    )


def _of_ids(targets: dict[str, Target], best: str, root: Path) -> tuple[Target, Path]:
    first = next((name for folder in sorted(root.iterdir()) if folder.is_dir() for name in os.listdir(folder)), "")
    if best != "imagenet_sketch" or not layouts.VAL_NAME.match(first):
        return targets[best], root
    if root.resolve().name != "val":
        raise ValueError(
            f"{root} holds ImageNet's validation pictures; rename it to val and give the folder it lies in"
        )
    return targets["imagenet"], root.resolve().parent


def _folders(root: Path) -> set[str]:
    return {entry.name for entry in os.scandir(root) if entry.is_dir()}


def _like(found: set[str], wanted: list[str] | tuple[str, ...]) -> float:
    """Share of the names that both have."""
    return len(found & set(wanted)) / max(1, len(found | set(wanted)))


def present(target: Target, root: Path) -> EvalSet:
    """The set's settings, of ImageNet-C those of the corruptions that are there."""
    evalset = stated(target.evalsets[0], root)
    if evalset.corruptions:
        evalset.corruptions = [corruption for corruption in COPIES if (root / corruption).is_dir()]
    return evalset


def inspect(target: Target, root: Path, *, every: bool, report: Callable[[int, int], None]) -> Iterator[Finding]:
    """Every check of a set that needs no model; ends early if its folders are wrong. every: decode all pictures, else
    SAMPLE of them; report: called with (pictures decoded, of how many)."""
    evalset = present(target, root)
    yield from _corruptions(evalset, stated(target.evalsets[0], root))
    problem = next(check(target.evalsets[0], replace(evalset, expect_n=None)), None)
    if problem:
        yield Finding("layout", False, problem.removeprefix(f"evalsets.{target.evalsets[0]}."))
        return
    sources = {_name(c, s): open_pictures(evalset, c, s) for c, s in rows(evalset)}
    yield Finding("layout", True, _layout(evalset))
    yield from _counts(evalset, sources)
    yield _names(target, sources)
    if len(sources) > 1:
        yield _same_pictures(sources)
    if target.key == "imagenet":
        yield _real(sources[""])
    yield from _decoded(evalset, list(sources.values()), every, report)


def _name(corruption: str | None, severity: int | None) -> str:
    return f"{corruption}/{severity}" if corruption else ""


def _layout(evalset: EvalSet) -> str:
    if evalset.layout == "index":
        return "folders 0 to 999; the number is the label (as text 10 would come before 2 and 988 labels be wrong)"
    whose = layouts.CLASS_LISTS.get(evalset.classes, "ImageNet's 1000")
    return f"the folders are {whose} classes by WordNet id" + (" in each copy" if evalset.corruptions else "")


def _corruptions(evalset: EvalSet, official: EvalSet) -> Iterator[Finding]:
    if not official.corruptions:
        return
    missing = [corruption for corruption in official.corruptions if corruption not in evalset.corruptions]
    extra = len(evalset.corruptions) - len(official.corruptions) + len(missing)
    archives = [name for name, group in C_ARCHIVES.items() if set(group) & set(missing)]
    yield Finding(
        "corruptions", not missing,
        f"{len(official.corruptions) - len(missing)} of 15, {extra} of the 4 extra"
        + (f"; missing: {', '.join(missing)}" if missing else ""),
        f"unpack {', '.join(archives)}: scripts/prepare_eval.py c --from ..." if missing else "",
    )  # fmt: skip
    if origin(evalset) == "generated":
        yield Finding("origin", None, "copies made by this project, not the published ones: results say generated")


def _counts(evalset: EvalSet, sources: dict[str, Source]) -> Iterator[Finding]:
    whole = evalset.expect_n
    wrong = [f"{len(source):,} in {name or 'the set'}" for name, source in sources.items() if len(source) != whole]
    of_each = f" in each of {len(sources)} folders <corruption>/<severity>" if len(sources) > 1 else ""
    text = (
        f"{', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''} instead of {whole:,}"
        if wrong
        else f"{whole:,}{of_each}"
    )
    way = "an incomplete download or unpacking, or files added: get the set again with scripts/prepare_eval.py"
    yield Finding("pictures", not wrong, text, way if wrong else "")
    per_class = np.concatenate([np.unique(source.labels, return_counts=True)[1] for source in sources.values()])
    least, most = int(per_class.min()), int(per_class.max())
    even = whole // 1000 if whole % 1000 == 0 and evalset.classes is None else None
    text = f"{least} to {most}" if least != most else str(least)
    good = even is None or least == most == even
    yield Finding("per class", good, text if good else f"{text} instead of {even}", "" if good else way)


def _names(target: Target, sources: dict[str, Source]) -> Finding:
    """Copies of files: where names are unique in the published set, over all of it, else within a class."""
    doubled = []
    for source in sources.values():
        paths = [source.describe(i) for i in range(len(source))]
        over = (lambda path: "") if target.key in ONE_NAME_EACH else os.path.dirname
        seen = Counter((over(path), os.path.splitext(os.path.basename(path))[0]) for path in paths)
        doubled += [name for (_, name), count in seen.items() if count > 1]
    if not doubled:
        return Finding("file names", True, "none twice")
    text = f"{len(doubled):,} twice, for example {doubled[0]}"
    return Finding("file names", False, text, "remove the copies, or get the set again")


def _same_pictures(sources: dict[str, Source]) -> Finding:
    """All copies are of the same pictures."""
    sets = {name: hash(_pictures_of(source)) for name, source in sources.items()}  # the tuples would take a gigabyte
    first = next(iter(sets))
    other = [name for name, pictures in sets.items() if pictures != sets[first]]
    if not other:
        return Finding("same pictures", True, f"the file names of all {len(sets)} folders agree")
    text = f"{len(other)} folders have other file names than {first}, for example {other[0]}"
    return Finding("same pictures", False, text, "unpack the archives that hold them again")


def _pictures_of(source: Source) -> tuple[tuple[int, str], ...]:
    return tuple(sorted((int(label), os.path.basename(source.describe(i))) for i, label in enumerate(source.labels)))


def _real(source: Source) -> Finding:
    try:
        labels = layouts.real_labels(source)
    except ValueError as error:
        return Finding("ReaL labels", False, str(error))
    scored = int((labels >= 0).any(1).sum())
    good = len(source) < 50_000 or scored == REAL_SCORED
    return Finding("ReaL labels", good, f"joined by file number: {scored:,} of {len(source):,} pictures have any")


def _decoded(
    evalset: EvalSet, sources: list[Source], every: bool, report: Callable[[int, int], None]
) -> Iterator[Finding]:
    ends = np.cumsum([len(source) for source in sources])
    chosen = subset(int(ends[-1]), None if every else min(SAMPLE, int(ends[-1])))
    which = np.searchsorted(ends, chosen, side="right")

    def size(job: tuple[int, int]) -> tuple[int, int] | str:
        source, index = sources[job[0]], job[1]
        try:
            return source[index][0].shape[:2]
        except ValueError as error:
            return str(error)

    found = []
    with ThreadPool(cores()) as pool:
        jobs = zip(which.tolist(), (chosen - (ends - [len(s) for s in sources])[which]).tolist(), strict=True)
        for result in pool.imap(size, jobs, chunksize=16):
            found.append(result)
            report(len(found), len(chosen))
    broken = [result for result in found if isinstance(result, str)]
    all_of = "all" if len(chosen) == ends[-1] else "a sample of"
    text = (
        f"{len(broken)} of {all_of} {len(chosen):,}: {'; '.join(broken[:3])}" if broken else f"{all_of} {len(chosen):,}"
    )
    yield Finding("readable", not broken, text, "get these files again; --all tries every picture" if broken else "")
    sizes = np.array([result for result in found if not isinstance(result, str)])
    if len(sizes):
        yield _sizes(evalset, sizes)


def _sizes(evalset: EvalSet, sizes: np.ndarray) -> Finding:
    """sizes: int (N, 2), height and width in pixels."""
    short = np.quantile(sizes.min(1), (0, 0.25, 0.5, 0.75, 1)).astype(int).tolist()
    text = f"short side {short[0]}, {short[1]}, {short[2]}, {short[3]}, {short[4]} px (least, quartiles, most)"
    canvas = evalset.canvas
    if canvas is not None:
        good = bool((sizes == canvas).all())
        way = f"the published copies are {canvas} px; others were resized or made in another way: get the set again"
        return Finding("sizes", good, f"all {canvas} x {canvas}" if good else text, "" if good else way)
    if len(sizes) > 1 and (sizes == sizes[0]).all():
        height, width = sizes[0]
        way = (
            "the published pictures have many sizes: this is a resized copy, whose accuracies differ; get the original"
        )
        return Finding("sizes", False, f"all {width} x {height}", way)
    return Finding("sizes", True, text)

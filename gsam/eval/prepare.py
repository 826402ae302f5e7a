"""Official archives -> folders that evaluate.py accepts, and their places in the user's configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from omegaconf import OmegaConf

from gsam.cli import CONFIGS
from gsam.data.ilsvrc import DEVKIT, val_wnids
from gsam.data.sources import imagenet_synsets

from . import archives, layouts
from .evalsets import EvalSet, check, open_pictures, rows

Report = Callable[[str, int, int, int], None]
"""(archive, its bytes read, its bytes, pictures so far)."""


@dataclass(frozen=True)
class Target:
    """A folder in its official layout. evalsets: files of configs/evalset that read it; the first one's rules are checked."""

    key: str  # of configs/paths
    folder: str
    evalsets: tuple[str, ...]
    archives: tuple[str, ...]  # shell patterns of their names
    word: str = ""  # of the archive's name or top folder, where a set has several folders

    def evalset(self, to: Path) -> EvalSet:
        """The set of `evalsets[0]` with its root below `to`."""
        return stated(self.evalsets[0], to / self.folder)


def stated(name: str, root: Path) -> EvalSet:
    """configs/evalset/<name>.yaml with this root."""
    keys = OmegaConf.to_container(OmegaConf.load(CONFIGS / "evalset" / f"{name}.yaml"), resolve=False)
    return EvalSet(**{**keys, "root": str(root)})


C_ARCHIVES = {
    "noise.tar": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur.tar": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather.tar": ("snow", "frost", "fog", "brightness"),
    "digital.tar": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra.tar": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
COPIES = tuple(corruption for group in C_ARCHIVES.values() for corruption in group)
VAL_SETS = ("imagenet", "imagenet_real", "imagenet_val_r", "imagenet_val_a")


def _v2(key: str, variant: str, word: str) -> Target:
    return Target(key, f"imagenetv2-{variant}-format-val", (key,), (f"imagenetv2-{word}*.tar*",), word)


SETS = {
    "v2": (
        _v2("imagenet_v2", "matched-frequency", "matched-frequency"),
        _v2("imagenet_v2_threshold", "threshold0.7", "threshold"),
        _v2("imagenet_v2_top", "top-images", "top-images"),
    ),
    "r": (Target("imagenet_r", "imagenet-r", ("imagenet_r", "imagenet_r_200"), ("imagenet-r*.tar*",)),),
    "a": (Target("imagenet_a", "imagenet-a", ("imagenet_a", "imagenet_a_1000"), ("imagenet-a*.tar*",)),),
    "sketch": (Target("imagenet_sketch", "sketch", ("imagenet_sketch",), ("*[Ss]ketch*.zip",)),),
    "c": (Target("imagenet_c", "imagenet-c", ("imagenet_c", "imagenet_c_extra"), tuple(C_ARCHIVES)),),
    "val": (Target("imagenet", "imagenet", VAL_SETS, ("ILSVRC2012_img_val*.tar*", DEVKIT)),),
}


@dataclass(frozen=True)
class Prepared:
    """What lies at a root now. whole: the number of pictures is the official one; missing: corruptions of ImageNet-C."""

    target: Target
    root: Path
    pictures: int
    whole: bool
    missing: tuple[str, ...]

    def command(self) -> str:
        """What evaluates it."""
        sets, words = [], []
        for name in self.target.evalsets:
            evalset = stated(name, self.root)
            there = [corruption for corruption in evalset.corruptions if corruption not in self.missing]
            if evalset.corruptions and not there:
                continue
            sets.append(name)
            words += [f"'evalsets.{name}.corruptions=[{','.join(there)}]'"] * (there != evalset.corruptions)
            words += [f"evalsets.{name}.expect_n=null"] * (not self.whole)
        return " ".join(
            ["python evaluate.py weights=<run folder or timm:name>", f"'evalset=[{','.join(sets)}]'", *words]
        )

    def archives_of_missing(self) -> list[str]:
        return [name for name, group in C_ARCHIVES.items() if set(group) & set(self.missing)]


def prepare(name: str, given: list[Path], to: Path, *, partial: bool, report: Report) -> list[Prepared]:
    """Unpack the archives of a set (key of SETS) into its official folders below `to` and check them.

    given: archives, or folders that hold them. What is there already is only checked. A final name is given to what is
    complete only; partial: another number of pictures than the set's is accepted, other classes never are. Raises
    ValueError for wrong, damaged or missing archives, naming the archive and the way out.
    """
    files = find(name, given)
    devkits = [file for file in files if name == "val" and "devkit" in file.name]
    labels = val_wnids(devkits[0]) if devkits else []
    targets = {file: _target(name, file) for file in files if "devkit" not in file.name}
    for file, target in targets.items():
        _install(target, file, to, labels, partial, report)
    return [_prepared(target, to, partial) for target in SETS[name] if target in targets.values()]


def find(name: str, given: list[Path]) -> list[Path]:
    """The archives: files as they are given, those of a folder by their official names. Raises ValueError."""
    found = []
    for path in given:
        if not path.exists():
            raise ValueError(f"--from {path} does not exist; give the archives or the folder that holds them")
        names = [pattern for target in SETS[name] for pattern in target.archives]
        inside = [path] if path.is_file() else sorted({file for pattern in names for file in path.glob(pattern)})
        if not inside:
            raise ValueError(
                f"--from {path} holds no archive named {' or '.join(names)}; name the files themselves. A set that is unpacked "
                f"already needs no preparing: paths.{SETS[name][0].key}=<its folder>"
            )
        found += inside
    return found


def _target(name: str, file: Path) -> Target:
    """Which of the set's folders an archive is: by its top folder, else by its own name."""
    if len(SETS[name]) == 1:
        return SETS[name][0]
    first = next(archives.pictures(file), None)
    for text in (first.name if first else "", file.name):
        for target in SETS[name]:
            if target.word in text.replace("_", "-"):
                return target
    known = ", ".join(target.folder for target in SETS[name])
    raise ValueError(f"{file}: neither its name nor its top folder says which set it is ({known}); rename the archive")


def _install(target: Target, file: Path, to: Path, labels: list[str], partial: bool, report: Report) -> None:
    """Unpack what is not there yet; a folder gets its final name when it is complete."""
    copies = [to / target.folder / corruption for corruption in C_ARCHIVES.get(file.name, ())]
    expected = copies if target.key == "imagenet_c" else _units(target, to)
    if expected and all(unit.exists() for unit in expected):
        return
    place = _place(target, file, to, labels)
    with archives.unpacking(file, to) as folder:
        archives.unpack(file, folder, place, lambda *numbers: report(file.name, *numbers))
        units = _units(target, folder)
        for unit in units:
            _check(target, folder, unit, file.name, partial)
        for unit in units:
            archives.move_whole(unit, to / unit.relative_to(folder))


def _units(target: Target, to: Path) -> list[Path]:
    """The folders below `to` that are renamed as a whole: of ImageNet-C those of its corruptions that are there."""
    if target.key == "imagenet_c":
        return [to / target.folder / c for c in COPIES if (to / target.folder / c).exists()]
    return [to / target.folder / "val"] if target.key == "imagenet" else [to / target.folder]


def _prepared(target: Target, to: Path, partial: bool) -> Prepared:
    units = _units(target, to)
    pictures = sum(_check(target, to, unit, "already there", partial) for unit in units)
    complete, missing = target.evalset(to).expect_n, ()
    if target.key == "imagenet_c":
        missing = tuple(c for c in COPIES if to / target.folder / c not in units)
        complete *= 5 * len(units)
    return Prepared(target, to / target.folder, pictures, pictures == complete, missing)


def _place(target: Target, file: Path, to: Path, labels: list[str]) -> archives.Place:
    """Where a picture of the archive belongs, below the folder to unpack into."""
    evalset, copies = target.evalset(to), target.key == "imagenet_c"
    allowed = set(map(str, range(1000))) if evalset.layout == "index" else set(imagenet_synsets())
    allowed = set(layouts.class_list(evalset.classes)) if evalset.classes else allowed

    def place(path: PurePosixPath) -> str | None:
        where = path.parts[-4:] if copies else path.parts[-2:]
        number = layouts.VAL_NAME.match(path.name) if labels else None
        if number is not None:
            where = (labels[int(number[1]) - 1] if 1 <= int(number[1]) <= len(labels) else "", path.name)
        if len(where) < 2 or where[-2] not in allowed or (copies and not (len(where) == 4 and where[0] in COPIES)):
            raise ValueError(f"{file}: {path} does not belong to {target.folder}: {_expected(target, evalset)}")
        if copies and (to / target.folder / where[0]).exists():
            return None
        return "/".join((target.folder, *(["val"] if target.key == "imagenet" else []), *where))

    return place


def _expected(target: Target, evalset: EvalSet) -> str:
    if evalset.layout == "index":
        return "expected .../<0 to 999>/<picture>. Archives with WordNet ids are an old version, get the present one"
    if evalset.layout == "corrupted":
        return "expected .../<corruption>/<severity>/<WordNet id>/<picture>; is it the archive of another set?"
    if evalset.layout == "split":
        return f"expected ILSVRC2012_val_*.JPEG with {DEVKIT} (the labels) beside it in --from, or .../<WordNet id>/<picture>"
    whose = layouts.CLASS_LISTS.get(evalset.classes, "ImageNet's 1000")
    return f"expected .../<WordNet id>/<picture> of {whose} classes; is it the archive of another set?"


def _check(target: Target, to: Path, unit: Path, origin: str, partial: bool) -> int:
    """Number of pictures of a unit below `to`. Raises ValueError if it is not what evaluate.py accepts."""
    evalset, complete = replace(target.evalset(to), expect_n=None), target.evalset(to).expect_n
    if evalset.layout == "corrupted":
        evalset.corruptions = [unit.name]
    for problem in check(target.evalsets[0], evalset):
        raise ValueError(f"{unit} ({origin}): {problem}")
    total = 0
    for corruption, severity in rows(evalset):
        found = len(open_pictures(evalset, corruption, severity))
        if found != complete and not partial:
            where = f" of {corruption}/{severity}" if corruption else ""
            raise ValueError(
                f"{unit} ({origin}) has {found:,} pictures{where}, the complete set has {complete:,}: an incomplete "
                "download or another version; get the archive again (remove a folder that is there), or add --partial"
            )
        total += found
    return total

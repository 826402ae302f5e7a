"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey pictures of 28 x 28, repeated to RGB. Read from its four
gzipped idx files.
"""

from __future__ import annotations

import gzip
import os
import shutil

import numpy as np

DEBIAN = "/usr/share/datasets/fashion-mnist"  # where Debian's package dataset-fashion-mnist puts the files
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "val": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801


class FashionMNIST:
    """A split in memory; see gsam.data.sources.Source."""

    classes = CLASSES
    in_memory = True

    def __init__(self, folder: str, split: str) -> None:
        images, labels = FILES[split]
        self.file = os.path.join(folder, images)
        self.grey = _read_idx(self.file, IMAGES_MAGIC).reshape(-1, 28, 28)
        self.labels = _read_idx(os.path.join(folder, labels), LABELS_MAGIC).astype(np.int64)
        if len(self.grey) != len(self.labels):
            raise ValueError(
                f"{folder}: {len(self.grey)} pictures but {len(self.labels)} labels in {split}; fetch the files again"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return np.repeat(self.grey[index][:, :, None], 3, axis=2), int(self.labels[index])

    def describe(self, index: int) -> str:
        return f"{self.file}[{index}]"


def fashion_mnist(root: str, split: str) -> FashionMNIST:
    """The split from `root`, else from Debian's package. Raises ValueError naming both ways to get the files."""
    return FashionMNIST(_locate(root), split)


def fashion_mnist_classes(root: str, split: str) -> tuple[str, ...]:
    """The ten class names. Raises ValueError as `fashion_mnist` when a file is missing."""
    _locate(root)
    return CLASSES


def fetch_fashion_mnist(root: str) -> str:
    """Put the four files into `root` if they are not there: linked from Debian's package, else downloaded by
    torchvision. Returns `root`.
    """
    missing = _missing(root)
    if not missing:
        return root
    os.makedirs(root, exist_ok=True)
    if not _missing(DEBIAN):
        for name in missing:
            os.symlink(os.path.join(DEBIAN, name), os.path.join(root, name))
        return root
    from torchvision.datasets import FashionMNIST as Torchvision

    Torchvision(root, download=True)
    for name in missing:  # torchvision keeps them in a folder of its own
        shutil.copyfile(os.path.join(root, "FashionMNIST", "raw", name), os.path.join(root, name + ".tmp"))
        os.replace(os.path.join(root, name + ".tmp"), os.path.join(root, name))
    return root


def _locate(root: str) -> str:
    for folder in (root, DEBIAN):
        if folder and not _missing(folder):
            return folder
    raise ValueError(
        f"data.root={root}: Fashion-MNIST's {_missing(root)[0]} is missing; get the four files with "
        "`apt install dataset-fashion-mnist`, or let torchvision download them: "
        '`python -c "from gsam.data import fashion_mnist as f; '
        f"f.fetch_fashion_mnist('{root or 'data/fashion_mnist'}')\"`"
    )


def _missing(folder: str) -> list[str]:
    return [name for names in FILES.values() for name in names if not os.path.isfile(os.path.join(folder, name))]


def _read_idx(path: str, magic: int) -> np.ndarray:
    """The uint8 values of an idx file, flat. Raises ValueError if it is torn or something else."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); fetch it again") from error
    if int.from_bytes(content[:4], "big") != magic:
        raise ValueError(f"{path} is not the idx file it should be; fetch it again")
    header = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:header], ">i4")
    values = np.frombuffer(content, np.uint8, offset=header)
    if len(values) != int(np.prod(shape)):
        raise ValueError(f"{path} holds {len(values)} values instead of {int(np.prod(shape))}; fetch it again")
    return values

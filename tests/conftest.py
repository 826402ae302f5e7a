"""Fixtures shared by all tests: real images in small amounts."""

import os
import signal
from pathlib import Path

import pytest

# One thread per process: the suite runs several tests at once on the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests read no roots of the user's own: no file configs/local/none.yaml.
os.environ["GSAM_PATHS"] = "none"
# A shell starts what runs in its background deaf to Ctrl-C, and so would be every process that the tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def fashion_root(tmp_path_factory) -> Path:
    """A folder with the four files of Fashion-MNIST (from Debian's package, or the checkout's data folder)."""
    from gsam.data.fashion_mnist import fetch_fashion_mnist

    root = tmp_path_factory.mktemp("fashion_mnist")
    fetch_fashion_mnist(root)
    return root

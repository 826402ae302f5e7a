"""A process in which others have used OpenCV, with threads, can fork our workers."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("cv2")
SCRIPT = """
import multiprocessing
import cv2
import numpy as np
from gsam.data.jpeg import encode
from gsam.data.stored import reduced
from gsam.eval.corruptions.blur import smooth

def work(picture):
    return len(encode(reduced(picture, 500), 90)) + smooth(picture / 255.0, 2.0).shape[0]

picture = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
cv2.resize(picture, (2000, 1500), interpolation=cv2.INTER_AREA)  # on OpenCV's threads
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.apply_async(work, [picture]).get(30) > 1000
"""


def test_a_process_forked_beside_opencvs_threads_works_too():
    env = {key: value for key, value in os.environ.items() if key != "OPENCV_FOR_THREADS_NUM"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr


def test_our_own_use_starts_no_threads():
    code = "from gsam.data.opencv import one_threaded; assert one_threaded().getNumThreads() == 1"
    env = {key: value for key, value in os.environ.items() if key != "OPENCV_FOR_THREADS_NUM"}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0

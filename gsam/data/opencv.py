"""OpenCV on one thread."""

import multiprocessing
import sys
from types import ModuleType


def one_threaded() -> ModuleType:
    """The module cv2, from its first import here on without threads of its own: loader workers must not each start a pool.
    Imported here, so that nothing else needs OpenCV."""
    inherited = "cv2" in sys.modules and multiprocessing.parent_process() is not None
    import cv2

    # In a process forked beside OpenCV's threads, setting their number would wait for those of the parent, for ever.
    if not inherited and cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
    return cv2

"""The decoders' machine code: everything that happens to a picture between the .beton file and the batch. Import
through ffcv_guard.kernels.

Each kernel takes a batch as FFCV's decoders do: (indices, buffers, the field's metadata, the storage's state). What
varies is in the buffers, so one compilation serves every seed, epoch and augmentation, and numba's cache on disk is
hit by every later process. Compiled without fastmath: the boxes are those of plain Python.
"""

import ctypes

import llvmlite.binding as llvm
import numpy as np
from ffcv.libffcv import lib
from numba import njit, prange
from numba import types as nb
from numba.extending import register_jitable

from gsam.data import bilinear, checksum, jpeg, keyed
from gsam.data.bilinear import resize_crop
from gsam.data.checksum import add_up
from gsam.data.ffcv_guard import cacheable
from gsam.data.jpeg import cut
from gsam.data.keyed import eval_geometry, flipped, inception_box, resmall_box, torchvision_box

for function in (
    keyed.words,
    keyed.below,
    keyed.between,
    keyed.flipped,
    keyed.inception_box,
    keyed.torchvision_box,
    keyed.resmall_box,
    keyed.eval_geometry,
    bilinear.taps,
    bilinear.resize_crop,
    checksum.add_up,
    jpeg.scan_header,
    jpeg.find_intervals,
    jpeg.copy,
    jpeg.cut,
):
    register_jitable(function)

# By name, not by address: an address would be another one in the next process, so numba would refuse to cache.
llvm.add_symbol("gsam_ffcv_imdecode", ctypes.cast(lib.imdecode, ctypes.c_void_p).value)
# OpenCV's cv::hal::resize, which FFCV's library is linked with and calls for INTER_AREA only.
llvm.add_symbol("gsam_opencv_resize", ctypes.cast(lib["_ZN2cv3hal6resizeEiPKhmiiPhmiiddi"], ctypes.c_void_p).value)
_imdecode = nb.ExternalFunction(
    "gsam_ffcv_imdecode",
    nb.int32(nb.uintp, nb.uint64, nb.uint32, nb.uint32, nb.uintp, *[nb.uint32] * 6, nb.uint8, nb.uint8),
)
_picture = (nb.uintp, nb.uintp, nb.int32, nb.int32)  # first byte, bytes from row to row, width, height
_resize = nb.ExternalFunction(
    "gsam_opencv_resize", nb.void(nb.int32, *_picture, *_picture, nb.float64, nb.float64, nb.int32)
)

compiled = njit(nogil=True, cache=cacheable())
compiled_parallel = njit(nogil=True, cache=cacheable(), parallel=True)

JPEG = 0  # FFCV's mode of a compressed picture; 1 is raw
RULES = ("none", "inception", "torchvision", "resmall")  # of gsam.data.Crop
WHOLE, INCEPTION, TORCHVISION, RESMALL = range(4)
# training: seed, epoch, crop rule, area least (resmall: its share) and most, aspect least and most, flip probability,
# filter
NUM_PARAMETERS = 9
CV_8UC3 = 16
FILTERS = {"linear": 1, "area": 3}  # of gsam.data.Filter; OpenCV's INTER_LINEAR and INTER_AREA
GOOD, UNDECODABLE, CHANGED = 0, 1, 2  # status of a picture; CHANGED: since it was written, by its checksum


@compiled
def stored_bytes(field, storage):
    """The picture's bytes in the mapped file; none if the file does not say how many."""
    mapped, starts, sizes = storage
    start = field["data_ptr"]
    entry = np.searchsorted(starts, start)
    size = np.int64(0) if entry == len(starts) or starts[entry] != start else np.int64(sizes[entry])
    return mapped[np.int64(start) : np.int64(start) + size]


@compiled
def decode_jpeg(data, height, width):
    """(pixels (height, width, 3) uint8, 0 if they are good)."""
    # Allocated here rather than in FFCV's buffers, which would hold five batches of the largest picture, pinned.
    pixels = np.empty((height, width, 3), np.uint8)
    failed = _imdecode(data.ctypes.data, data.size, height, width, pixels.ctypes.data, height, width, 0, 0, 1, 1, 0, 0)
    return pixels, failed


@compiled
def resize_box(pixels, top, left, rows, columns, how, out):
    """OpenCV's resize of a box; `how`: a value of FILTERS."""
    stride = 3 * pixels.shape[1]
    first = pixels.ctypes.data + stride * top + 3 * left
    _resize(
        CV_8UC3, first, stride, columns, rows, out.ctypes.data, 3 * out.shape[1], out.shape[1], out.shape[0],
        out.shape[1] / columns, out.shape[0] / rows, how,
    )  # fmt: skip


@compiled
def training_box(index, height, width, parameters):
    """(top, left, rows, columns) of the picture's crop, pixels."""
    seed, epoch, rule = np.int64(parameters[0]), np.int64(parameters[1]), np.int64(parameters[2])
    area_min, area_max, aspect_min, aspect_max = parameters[3], parameters[4], parameters[5], parameters[6]
    if rule == INCEPTION:
        return inception_box(seed, epoch, index, height, width, area_min, area_max, aspect_min, aspect_max)
    if rule == TORCHVISION:
        return torchvision_box(seed, epoch, index, height, width, area_min, area_max, aspect_min, aspect_max)
    if rule == RESMALL:
        return resmall_box(seed, epoch, index, height, width, area_min)
    return 0, 0, height, width


@compiled
def resize_and_flip(pixels, box, index, parameters, out):
    """Resize a box of `pixels` into `out` and mirror it where the draw says so."""
    top, left, rows, columns = box
    resize_box(pixels, top, left, rows, columns, np.int32(parameters[8]), out)
    if flipped(np.int64(parameters[0]), np.int64(parameters[1]), index, parameters[7]):
        for row in range(out.shape[0]):
            for left_column in range(out.shape[1] // 2):
                right_column = out.shape[1] - 1 - left_column
                for c in range(3):
                    value = out[row, left_column, c]
                    out[row, left_column, c] = out[row, right_column, c]
                    out[row, right_column, c] = value


@compiled
def eval_picture(pixels, resize, out):
    """Resize the shorter side to `resize` and write the centre crop into `out`."""
    height, width = pixels.shape[0], pixels.shape[1]
    rows, columns, top, left = eval_geometry(height, width, resize, out.shape[0])
    if rows == height and columns == width:
        for row in range(out.shape[0]):  # a slice assignment would take numba ten times as long to compile
            for column in range(out.shape[1]):
                for c in range(3):
                    out[row, column, c] = pixels[top + row, left + column, c]
    else:
        resize_crop(pixels, rows, columns, top, left, out)


@compiled
def train_one(index, out, parameters, expected, status, field, storage):
    status[0] = UNDECODABLE  # stays so if anything fails: parallel loops swallow exceptions
    data = stored_bytes(field, storage)
    if add_up(data) != expected[0]:
        status[0] = CHANGED
        return
    height, width = np.int64(field["height"]), np.int64(field["width"])
    top, left, rows, columns = training_box(index, height, width, parameters)
    if field["mode"] == JPEG:
        part, part_top, part_left, part_height, part_width = cut(data, height, width, top, left, rows, columns)
        pixels, failed = decode_jpeg(part, part_height, part_width)
        if failed == 0:
            resize_and_flip(pixels, (top - part_top, left - part_left, rows, columns), index, parameters, out)
            status[0] = GOOD
    elif data.size == 3 * height * width:
        resize_and_flip(data.reshape((height, width, 3)), (top, left, rows, columns), index, parameters, out)
        status[0] = GOOD


@compiled
def eval_one(out, parameters, expected, status, field, storage):
    status[0] = UNDECODABLE
    data = stored_bytes(field, storage)
    if add_up(data) != expected[0]:
        status[0] = CHANGED
        return
    height, width = np.int64(field["height"]), np.int64(field["width"])
    if field["mode"] == JPEG:
        pixels, failed = decode_jpeg(data, height, width)
        if failed == 0:
            eval_picture(pixels, np.int64(parameters[0]), out)
            status[0] = GOOD
    elif data.size == 3 * height * width:
        eval_picture(data.reshape((height, width, 3)), np.int64(parameters[0]), out)
        status[0] = GOOD


# A serial twin of each: with one worker no threading layer is started, which a forked process would inherit in a
# broken state.
@compiled
def train_serial(indices, buffers, metadata, storage):
    images, parameters, expected, status = buffers
    for i in range(len(indices)):
        index = np.int64(indices[i])
        train_one(index, images[i], parameters[i], expected[i], status[i], metadata[index], storage)
    return images[: len(indices)]


@compiled_parallel
def train_parallel(indices, buffers, metadata, storage):
    images, parameters, expected, status = buffers
    for i in prange(len(indices)):
        index = np.int64(indices[i])
        train_one(index, images[i], parameters[i], expected[i], status[i], metadata[index], storage)
    return images[: len(indices)]


@compiled
def eval_serial(indices, buffers, metadata, storage):
    images, parameters, expected, status = buffers
    for i in range(len(indices)):
        eval_one(images[i], parameters[i], expected[i], status[i], metadata[np.int64(indices[i])], storage)
    return images[: len(indices)]


@compiled_parallel
def eval_parallel(indices, buffers, metadata, storage):
    images, parameters, expected, status = buffers
    for i in prange(len(indices)):
        eval_one(images[i], parameters[i], expected[i], status[i], metadata[np.int64(indices[i])], storage)
    return images[: len(indices)]

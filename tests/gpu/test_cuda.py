"""What must also hold on a CUDA device: `python -m pytest -m gpu`. Where a test makes sense on the CPU it runs there too."""

import subprocess
import sys
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from gsam.augment import OnDevice
from gsam.data import AugmentConfig, RandAugment
from gsam.runtime import Precision, Runtime
from gsam.verify.proofs import PROOFS
from tests.contract import matrix
from tests.contract.matrix import Case, advance, batches, stepper
from tests.contract.properties import PROPERTIES, holds_for

ROOT = Path(__file__).parents[2]
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
FP32, BF16, FP16 = Precision
CASES = [
    Case("gsam", FP32, 1, 1, 4, "bn"), Case("gsam", FP16, 1, 4, 1, "dropout"), Case("gsam", BF16, 1, 1, 1, "drop_path"),
    Case("asam", FP32, 1, 1, 1, "unused"), Case("asam original", BF16, 1, 4, 4, "bn"), Case("weighted", FP16, 1, 1, 1, "bn"),
    Case("asam big_vision", FP16, 1, 1, 1, "bn"), Case("sam", FP16, 1, 1, 4, "frozen"), Case("gsam f", FP32, 1, 1, 1, "plain"),
    Case("entropy_sgd", BF16, 1, 1, 1, "bn"), Case("vanilla", FP16, 1, 4, 1, "bn"), Case("gsam global", FP32, 1, 1, 1, "bn"),
    Case("gsam", FP32, 1, 1, 4, "bn", compile=True),
]  # fmt: skip


@pytest.fixture(params=["cpu", CUDA])
def device(request, monkeypatch) -> torch.device:
    """The device of every Stepper made in the test. Deterministic kernels: bit for bit is meant as such."""
    chosen = torch.device(request.param)
    monkeypatch.setattr(matrix, "DEVICE", chosen)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(chosen.type == "cuda")
    yield chosen
    torch.use_deterministic_algorithms(False)


JOBS = [
    pytest.param(name, case, "cuda", marks=CUDA.marks) for case in CASES for name in PROPERTIES if holds_for(name, case)
]
# On the CPU the matrix has them all: a few here show that this file works.
JOBS += [(name, CASES[0], "cpu") for name in PROPERTIES if holds_for(name, CASES[0])]


@pytest.mark.parametrize(
    ("name", "case", "device"),
    JOBS,
    ids=lambda v: v.id if isinstance(v, Case) else v,
    indirect=["device"],
)
def test_the_contract(name, case, device):
    PROPERTIES[name](case)


@pytest.mark.parametrize("name", [name for name in PROOFS if name != "two ranks"])
def test_the_proofs_of_gsam_verify(name, device):
    PROOFS[name](device)


@pytest.mark.parametrize("precision", Precision, ids=lambda p: p.name)
def test_no_more_host_syncs_per_step_than_vanilla(precision, device):
    """In step 3: steps 0, 1, 2, 4, 8, … also look for lost perturbations."""
    counts = {}
    for method in ("vanilla", "gsam"):
        made = advance(stepper(Case(method, precision, 1, 1, 1, "bn")), 3)
        given = batches(made)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                made.train_step(given)
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        counts[method] = len([w for w in found if "synchroniz" in str(w.message)])
    assert counts["gsam"] <= counts["vanilla"]
    assert device.type == "cpu" or counts["vanilla"] > 0  # the copy of the images at least: the counter counts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("kind", "limit"), [("1", 2.1), ("4", 3.1)])
def test_memory_beyond_vanilla_in_copies_of_the_weights(kind, limit):
    command = [sys.executable, "scripts/bench/optimizer.py", "--model", "vit_base_patch32_224", "--memory-of"]
    peak = {k: float(subprocess.run([*command, k], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1])
            for k in ("vanilla", kind)}  # fmt: skip
    assert (peak[kind] - peak["vanilla"]) * 2**20 / (4 * 88_224_232) <= limit


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_augmentation_gives_the_same_pictures_and_waits_for_nothing(device):
    """RandAugment and jitter end in whole numbers: no pixel differs from the CPU's. Once the pictures are on the device nothing
    waits for it."""
    config = AugmentConfig(size=64, mixup=0.2, randaugment=RandAugment.official, layers=3, color_jitter=0.4)
    made, on_cpu = (
        OnDevice(config, place, seed=3, num_classes=10, group_size=32) for place in (device, torch.device("cpu"))
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels, keys = torch.arange(128) % 10, torch.stack([torch.zeros(128, dtype=torch.int64), torch.arange(128)], dim=1)
    there = images.to(device), labels.to(device)
    with no_waiting() if device.type == "cuda" else nullcontext():
        distorted, (mixed, targets) = made.distort(there[0], keys), made(*there, keys, step=5)
    assert torch.equal(distorted.cpu(), on_cpu.distort(images, keys))
    expected = on_cpu(images, labels, keys, step=5)
    torch.testing.assert_close(mixed.cpu(), expected[0]), torch.testing.assert_close(targets.cpu(), expected[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_rank_without_a_gpu_is_told_how_many_there_are(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(ValueError, match=r"has no GPU: \d+ visible; start torchrun with --nproc-per-node="):
        with Runtime.start():
            pass

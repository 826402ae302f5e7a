"""The comparison with the original: its table in docs/imagenet_c.md keeps what is promised, and its way to share a seed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsam.eval.corruptions import CORRUPTIONS, SEVERITIES
from gsam.eval.corruptions.textures import frost_textures
from tests.photos import photograph

from .pictures import mad

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("parity", ROOT / "scripts" / "parity_imagenet_c.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_docs_keeps_the_tolerances(parity):
    text = (ROOT / "docs" / "imagenet_c.md").read_text()
    text = text[text.index(parity.BEGIN) : text.index(parity.END)]
    rows = {
        cells[0]: cells for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()) if cells
    }
    assert rows.keys() >= CORRUPTIONS.keys() | {parity.SYNTHETIC}
    for name in [*CORRUPTIONS, parity.SYNTHETIC]:
        _, differences, _, magnitudes = rows[name]
        ours, original = zip(*([float(v) for v in pair.split("/")] for pair in magnitudes.split("·")), strict=True)
        assert len(ours) == 5
        mean = [] if name in parity.MAGNITUDE_TOLERANCE else [float(d) for d in differences.split()]
        result = {"mean": mean or [0.0] * 5, "ours": ours, "original": original}
        assert (name in parity.MAGNITUDE_TOLERANCE or len(mean) == 5) and parity.problems(name, result) == []


def test_a_result_out_of_tolerance_is_a_problem(parity):
    result = {"mean": [0.01, 0.06, 0, 0, 0], "ours": [10, 10, 10, 10, 10.6], "original": [10] * 5}
    assert parity.problems("snow", result) == ["snow 2: mean difference 0.0600"]
    assert parity.problems(parity.SYNTHETIC, result) == [f"{parity.SYNTHETIC} 5: magnitude 10.60, original 10.00"]


def test_the_legacy_stream_draws_what_the_legacy_generator_draws(parity):
    photo = photograph().crop((100, 60, 324, 284))
    for severity, std in zip(SEVERITIES, (0.08, 0.12, 0.18, 0.26, 0.38), strict=True):
        np.random.seed(3)
        noisy = np.asarray(photo) / 255 + np.random.normal(size=(224, 224, 3), scale=std)
        copy = parity.ours("gaussian_noise", photo, severity, 3, None)
        assert mad(copy, (np.clip(noisy, 0, 1) * 255).astype(np.uint8)) < 1e-3


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_can_share_a_seed(parity, name):
    photo = Image.fromarray(np.asarray(photograph().crop((100, 60, 324, 284))))
    copy = parity.ours(name, photo, 3, 0, frost_textures(None))
    assert copy.dtype == np.uint8 and copy.shape == (224, 224, 3) and mad(copy, np.asarray(photo)) > 1


def test_frost_seeds_draw_every_texture_equally_often(parity):
    drawn = [np.random.RandomState(seed).randint(5) for seed in parity.frost_seeds(3)]
    assert sorted(drawn) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]

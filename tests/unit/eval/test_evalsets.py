from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import v2

from gsam.data import AugmentConfig, subset
from gsam.data.fashion_mnist import DEBIAN
from gsam.eval import EvalSet
from gsam.eval.corrupted import CorruptedLoader
from gsam.eval.corruptions import CORRUPTIONS, corrupt
from gsam.eval.evalsets import build, check, rows

from .pictures import clothes, fashion_mnist, gradient

CONFIGS = Path(__file__).parents[3] / "configs"
NATIVE = AugmentConfig(size=28, eval_resize=28)


def corrupted(**changes):
    values = {"corruptions": ["gaussian_noise", "contrast"], "severities": [2, 5], "limit": 101, "grey": True}
    return EvalSet("fashion_mnist", DEBIAN, **{**values, **changes})


def read(loader, **options):
    batches = [(images.clone(), labels.clone()) for images, labels in loader.epoch(**options)]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.fixture
def folder(tmp_path):
    """An image folder: two classes, three pictures of different sizes, all larger than the crop."""
    for split in ("train", "val"):
        for number, (kind, height, width) in enumerate((("a", 300, 280), ("b", 257, 400), ("b", 320, 320))):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(gradient(400)).resize((width, height))
            image.save(tmp_path / split / kind / f"{number}.png")
    return tmp_path


@fashion_mnist
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_loaders_pictures_are_those_of_corrupt(name):
    source = clothes()
    images, labels = read(build(corrupted(grey=False, limit=20), NATIVE, name, 4, batch_size=8))
    assert images.shape == (20, 3, 28, 28) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    for image, label, index in zip(images, labels, subset(len(source), 20), strict=True):
        picture, wanted = source[int(index)]
        assert label == wanted
        assert np.array_equal(image.permute(1, 2, 0), corrupt(picture, name, 4, seed=0, index=int(index)))


@fashion_mnist
def test_workers_ranks_and_batches_change_nothing():
    evalset = corrupted()
    images, labels = read(build(evalset, NATIVE, "gaussian_noise", 2, batch_size=101))
    for batch_size, world, workers in ((7, 1, 0), (16, 1, 2), (10, 2, 0), (40, 3, 1)):
        seen = 0
        for rank in range(world):
            loader = build(evalset, NATIVE, "gaussian_noise", 2, batch_size, rank, world, workers)
            mine, answers = read(loader)
            assert torch.equal(mine, images[rank::world]) and torch.equal(answers, labels[rank::world])
            assert loader.num_examples == 101 and loader.num_classes == 10
            assert loader.batches_per_epoch == -(-len(mine) // batch_size)
            seen += len(mine)
        assert seen == 101


@fashion_mnist
def test_epochs_are_equal_and_batches_can_be_skipped():
    loader = build(corrupted(), NATIVE, "gaussian_noise", 2, batch_size=25)
    images, labels = read(loader)
    assert torch.equal(read(loader, epoch=3)[0], images)
    assert torch.equal(read(loader, skip=2)[0], images[50:]) and torch.equal(read(loader, skip=2)[1], labels[50:])


@fashion_mnist
def test_a_subset_holds_the_copies_of_the_whole_set():
    source, index = clothes(), int(subset(10_000, 30)[11])
    whole = CorruptedLoader(source, "gaussian_noise", 2, transform=lambda x: x, indices=[index], batch_size=1)
    part = read(build(corrupted(limit=30, grey=False), NATIVE, "gaussian_noise", 2, batch_size=30))[0][11]
    assert torch.equal(read(whole)[0][0], part)


@fashion_mnist
def test_grey_pictures_stay_grey():
    grey, _ = read(build(corrupted(), NATIVE, "gaussian_noise", 5, batch_size=101))
    colour, _ = read(build(corrupted(grey=False), NATIVE, "gaussian_noise", 5, batch_size=101))
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    assert not torch.equal(colour[:, 0], colour[:, 1])
    assert torch.equal(grey[:, 0], colour.double().mean(1).round().byte())


@fashion_mnist
def test_reading_leaves_torchs_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(build(corrupted(), NATIVE, "gaussian_noise", 2, batch_size=50, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@fashion_mnist
def test_other_sizes_get_the_evaluation_transform_after_the_corruption():
    larger = AugmentConfig(size=32, eval_resize=36)
    images, _ = read(build(corrupted(), larger, "contrast", 5, batch_size=101))
    small, _ = read(build(corrupted(), NATIVE, "contrast", 5, batch_size=101))
    resize = v2.Compose([v2.Resize(36), v2.CenterCrop(32)])
    wanted = np.asarray(resize(Image.fromarray(small[0].permute(1, 2, 0).numpy())))
    assert np.array_equal(images[0].permute(1, 2, 0), wanted)


def test_the_canvas_is_cut_out_before_the_corruption(folder):
    evalset = EvalSet("imagefolder", str(folder), corruptions=["contrast"], severities=[3], canvas=224)
    images, labels = read(build(evalset, AugmentConfig(), "contrast", 3, batch_size=2, workers=0))
    assert images.shape == (3, 3, 224, 224) and labels.tolist() == [0, 1, 1]
    central = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for index, name in enumerate(("a/0.png", "b/1.png", "b/2.png")):
        square = np.asarray(central(Image.open(folder / "val" / name)))
        assert np.array_equal(images[index].permute(1, 2, 0), corrupt(square, "contrast", 3, seed=0, index=index))
    # A network for smaller pictures sees the whole square, not a crop of the crop.
    small, _ = read(build(evalset, AugmentConfig(size=112, eval_resize=128), "contrast", 3, batch_size=3, workers=0))
    wanted = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((112, 112), Image.Resampling.BILINEAR)
    assert np.array_equal(small[0].permute(1, 2, 0), np.asarray(wanted))


@fashion_mnist
def test_preset_of_a_loader(folder):
    assert build(corrupted(), NATIVE, "contrast", 2, batch_size=1).preset == 32
    evalset = EvalSet("imagefolder", str(folder), corruptions=["contrast"], severities=[3], canvas=64)
    assert build(evalset, AugmentConfig(), "contrast", 3, batch_size=1).preset == 64


@fashion_mnist
def test_clean_sets_and_rows():
    clean = EvalSet("fashion_mnist", DEBIAN, limit=101)
    assert rows(clean) == [(None, None)]
    images, _ = read(build(clean, NATIVE, None, None, batch_size=50))
    assert np.array_equal(images[5].permute(1, 2, 0), clothes()[int(subset(10_000, 101)[5])][0])
    contrast, noise = ("contrast", "gaussian_noise")
    assert rows(corrupted()) == [(noise, 2), (noise, 5), (contrast, 2), (contrast, 5)]


@fashion_mnist
def test_a_good_set_has_no_problem():
    assert list(check("x", corrupted())) == [] == list(check("x", EvalSet("fashion_mnist", DEBIAN)))


@fashion_mnist
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"corruptions": ["gausian_noise"]},
            "unknown corruption 'gausian_noise'; did you mean",
        ),
        ({"severities": [0, 3]}, "evalsets.x.severities=[0, 3]: 0 is not one of"),
        ({"severities": []}, "give both"),
        ({"severities": [3, 3]}, "names one twice"),
        ({"limit": 10_001}, "evalsets.x.limit=10001 is outside 1 to 10000"),
        ({"limit": 0}, "evalsets.x.limit=0"),
        ({"split": "test"}, "evalsets.x.split=test is not one of train, val"),
        ({"source": "fashion"}, "evalsets.x.source=fashion is unknown"),
        ({"source": "imagefolder", "root": "/no/such"}, "evalsets.x.root=/no/such"),
        ({"canvas": 0}, "evalsets.x.canvas=0"),
        ({"seed": -1}, "evalsets.x.seed=-1"),
    ],
)
def test_problems(changes, said):
    evalset = corrupted()
    for key, value in changes.items():
        setattr(evalset, key, value)
    problems = list(check("x", evalset))
    assert len(problems) == 1 and said in problems[0] and "data." not in problems[0]


def test_imagenet_copies_need_the_canvas(tmp_path):
    evalset = EvalSet("imagenet", str(tmp_path), corruptions=["contrast"], severities=[1])
    assert any("set canvas: 224" in problem for problem in check("x", evalset))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "evalset").glob("*.yaml")))
def test_files_fit_the_schema(name):
    with initialize_config_dir(str(CONFIGS), version_base=None):
        cfg = compose("evaluate", overrides=[f"evalset=[{name}]", "paths.data=/data"])
    assert list(cfg.evalsets) == [name]
    evalset = EvalSet(**OmegaConf.to_container(cfg.evalsets[name], resolve=True))
    OmegaConf.structured(evalset)  # checks the types
    assert evalset.root.startswith("/data/") and rows(evalset)
    assert not [p for p in check(name, evalset) if "root" not in p]  # nothing but the missing folder


def test_several_files_compose_into_several_sets():
    with initialize_config_dir(str(CONFIGS), version_base=None):
        cfg = compose("evaluate", overrides=["evalset=[fashion_mnist,fashion_mnist_c]"])
    assert list(cfg.evalsets) == ["fashion_mnist", "fashion_mnist_c"]
    assert cfg.evalsets.fashion_mnist_c.severities == [3] and cfg.evalsets.fashion_mnist_c.limit == 2000

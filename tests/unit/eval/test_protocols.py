"""Each published protocol on its official layout, with numbers that only the right protocol gives."""

import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

from gsam.data import subset
from gsam.data.sources import imagenet_synsets
from gsam.eval import evalsets, layouts
from gsam.eval.pictures import PictureLoader
from gsam.eval.preprocess import Preprocess
from gsam.eval.runner import score
from tests.ranks import run_ranks

from .codes import BORDER, SMALL, Reader, jpeg, photo, write
from .sets import measured, named

WNIDS = imagenet_synsets()
R, A = layouts.class_labels("imagenet_r"), layouts.class_labels("imagenet_a")
REAL = layouts._real_lists()


def metrics(sets, *args, **options):
    return {name: scored.metrics for name, scored in measured(sets, *args, **options).items()}


def test_v2_folders_are_numbers_not_text(tmp_path):
    """Every picture answers the number of its folder; sorted as text, folder "10" would be class 2."""
    write(tmp_path, ((f"{k}/{k:04x}.jpeg", (k, (k + 1) % 1000)) for k in range(1000)))
    sets = named("imagenet_v2", root=tmp_path, expect_n=1000)
    assert list(evalsets.check("imagenet_v2", sets["imagenet_v2"])) == []
    found = metrics(sets)["imagenet_v2"]
    assert (found.n, found.top1, found.top5) == (1000, 1.0, 1.0)
    as_text = sorted(map(str, range(1000)))
    assert np.mean([as_text.index(str(k)) == k for k in range(1000)]) < 0.02


@pytest.fixture(scope="module")
def renditions(tmp_path_factory):
    """ImageNet-R: one of two pictures is taken for a class that R has not, and only then for its own."""
    other = sorted(set(range(1000)) - set(R))
    answers = [(other[i], label) if i % 2 else (label, other[i]) for i, label in enumerate(R)]
    root = tmp_path_factory.mktemp("r")
    return write(root, ((f"{WNIDS[label]}/art_0.jpg", a) for label, a in zip(R, answers, strict=True)))


def test_r_is_scored_over_1000_classes_and_within_its_own_200_in_one_pass(renditions):
    sets = named("imagenet_r", "imagenet_r_200", root=renditions, expect_n=200)
    assert len(evalsets.passes(sets)) == 1
    found = metrics(sets)
    assert (found["imagenet_r"].n, found["imagenet_r"].top1) == (200, 0.5)
    assert (found["imagenet_r_200"].n, found["imagenet_r_200"].top1) == (200, 1.0)
    # The softmax is over the logits that compete: 2 or 1 for the right class and 0 for the other 199.
    right = [np.e**logit / (np.e**logit + 199) for logit in (1, 2)]
    assert found["imagenet_r_200"].nll == pytest.approx(-np.log(right).mean(), rel=1e-6)


def test_the_top_five_of_200_classes_are_classes_of_the_1000(renditions):
    scored = measured(named("imagenet_r_200", root=renditions, expect_n=200))["imagenet_r_200"].predictions
    assert scored["top5"].shape == (200, 5) and np.isin(scored["top5"], R).all()
    assert np.array_equal(scored["top5"][:, 0], R) and np.array_equal(scored["label"], R)
    assert scored["index"].tolist() == list(range(200)) and scored["correct"].all()


def test_a_is_scored_within_its_200_classes(tmp_path):
    other = sorted(set(range(1000)) - set(A))
    write(tmp_path, ((f"{WNIDS[k]}/0.5_n.jpg", (other[0], k) if i < 150 else (k, other[0])) for i, k in enumerate(A)))
    found = metrics(named("imagenet_a", "imagenet_a_1000", root=tmp_path, expect_n=200))
    assert (found["imagenet_a"].top1, found["imagenet_a_1000"].top1) == (1.0, 0.25)


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """Validation pictures whose numbers have 0, 1 or several ReaL labels: every second picture answers its folder's class,
    the others first another of their ReaL labels, or a class that ReaL does not know, and then their folder's."""
    root, used, answers = tmp_path_factory.mktemp("imagenet"), set(), {}
    counts = (REAL >= 0).sum(1)
    pictures = []
    for label, wnid in enumerate(WNIDS):
        wanted = (1, 2, 0)[label % 3]
        fits = np.flatnonzero(counts == wanted if wanted == 0 else (counts == wanted) & (REAL == label).any(1))
        number = next((int(n) for n in fits if n not in used), None)
        if number is None:
            number = next(n for n in np.flatnonzero(counts == 0) if n not in used)
        used.add(number)
        known = [int(k) for k in REAL[number] if k >= 0]
        other = [k for k in known if k != label]
        first = label if label % 2 else (other or [(label + 7) % 1000])[0]
        name = f"val/{wnid}/ILSVRC2012_val_{number + 1:08d}.JPEG"
        answers[label] = (first, known)
        pictures.append((name, (first, (first + 1) % 1000 if first == label else label)))
    return write(root, pictures), answers


def test_real_labels_are_joined_by_file_number_and_any_of_them_is_right(val):
    root, answers = val
    sets = named("imagenet", "imagenet_real", root=root, expect_n=1000)
    assert [problem for name in sets for problem in evalsets.check(name, sets[name])] == []
    scored = measured(sets)
    right = [first in known for first, known in answers.values() if known]
    real = scored["imagenet_real"]
    assert (real.metrics.n, real.metrics.top1) == (len(right), np.mean(right))
    assert 300 < len(right) < 1000 and 0.3 < np.mean(right) < 0.9
    assert real.predictions["index"].tolist() == [k for k, (_, known) in answers.items() if known]
    single = [known[0] if len(known) == 1 else -1 for _, known in answers.values() if known]
    assert real.predictions["label"].tolist() == single
    assert scored["imagenet"].metrics.n == 1000
    assert scored["imagenet"].metrics.top1 == np.mean([first == k for k, (first, _) in answers.items()])


def test_all_of_imagenets_numbers_of_real_labels():
    assert REAL.shape[0] == 50_000 and ((REAL >= 0).any(1)).sum() == 46_837


def test_clean_pictures_of_the_classes_of_r_and_a(val):
    root, answers = val
    found = metrics(named("imagenet_val_r", "imagenet_val_a", root=root, expect_n=1000))
    for name, labels in (("imagenet_val_r", R), ("imagenet_val_a", A)):
        # A wrong answer outside the 200 classes does not compete, so that the folder's class comes first.
        right = np.mean([answers[k][0] == k or answers[k][0] not in labels for k in labels])
        assert (found[name].n, found[name].top1) == (200, right)
        assert right > np.mean([answers[k][0] == k for k in labels])


def test_all_sets_of_the_validation_pictures_share_one_pass(val):
    names = ("imagenet", "imagenet_real", "imagenet_val_r", "imagenet_val_a")
    (one,) = evalsets.passes(named(*names, root=val[0]))
    assert one.names == names
    sets = named(*names, root=val[0])
    sets["imagenet_real"].limit = 10
    assert len(evalsets.passes(sets)) == 2


# ---- ImageNet-C -----------------------------------------------------------------------------------------------------

SEEN = subset(1000, 24)  # the pictures that limit=24 keeps
BIG = Preprocess(224, 256)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """ImageNet-C of 224 pixels with the answer along the border: severity s of fog is right on s pictures, of frost on 10 s.

    Classes that no test reads share one file.
    """
    root, background = tmp_path_factory.mktemp("imagenet-c"), photo(224)
    shared = root / "shared.jpeg"
    shared.write_bytes(jpeg(background, (0, 1), BORDER))
    for corruption, each in (("fog", 1), ("frost", 10)):
        for severity in (1, 2):
            for label, wnid in enumerate(WNIDS):
                path = root / corruption / str(severity) / wnid / f"ILSVRC2012_val_{label + 1:08d}.JPEG"
                path.parent.mkdir(parents=True)
                if label in SEEN:
                    right = SEEN.tolist().index(label) < each * severity
                    path.write_bytes(jpeg(background, (label if right else (label + 3) % 1000, 5), BORDER))
                else:
                    path.hardlink_to(shared)
    return root


def copied(copies, **changes):
    return named("imagenet_c", root=copies, corruptions="[fog,frost]", severities="[1,2]", expect_n=1000, **changes)


def test_stored_copies_are_not_resized_and_every_one_is_its_own(copies):
    """Resize(256) and CenterCrop(224) would cut the border off, and with it every answer."""
    sets = copied(copies, limit=24)
    assert list(evalsets.check("imagenet_c", sets["imagenet_c"])) == []
    model = Reader(squares=BORDER, shown=(0, 224))
    for corruption, severity, right in (("fog", 1, 1), ("fog", 2, 2), ("frost", 1, 10), ("frost", 2, 20)):
        found = metrics(sets, corruption, severity, model=model, preprocess=BIG)["imagenet_c"]
        assert (found.n, found.top1) == (24, right / 24)
    source = evalsets.open_pictures(sets["imagenet_c"], "frost", 2)
    loader = evalsets.build(sets["imagenet_c"], BIG, "frost", 2, batch_size=24, workers=0)
    ((images, _),) = loader.epoch()
    assert all(np.array_equal(image.permute(1, 2, 0), source[i][0]) for image, i in zip(images, SEEN, strict=True))
    assert "not resized" in evalsets.prepare(sets["imagenet_c"], BIG, "frost", 2).text()
    resized = BIG(source[SEEN[0]][0])  # the mistake
    assert not np.array_equal(resized, source[SEEN[0]][0])


def test_a_model_of_another_size_sees_the_whole_copy_resized_and_the_protocol_says_so(copies):
    sets, small = copied(copies, limit=24), Preprocess(112, 128, "bicubic")
    found = metrics(sets, "frost", 2, model=Reader(squares=BORDER, shown=(0, 224)), preprocess=small)["imagenet_c"]
    assert found.top1 == 20 / 24
    prepare = evalsets.prepare(sets["imagenet_c"], small, "frost", 2)
    assert "resized to 112 (bicubic)" in prepare.text() and prepare.resized == 112


def test_a_model_trained_at_224_and_tested_at_288_sees_the_copies_as_they_are(copies):
    """As ResNet-50 A1 of timm: clean pictures at 288, but no copy is enlarged to it."""
    published = timm.get_pretrained_cfg("resnet50.a1_in1k").to_dict()
    a1, sets = Preprocess.published(published, "a1"), copied(copies, limit=24)
    assert (a1.size, a1.trained_size) == (288, 224)
    prepare = evalsets.prepare(sets["imagenet_c"], a1, "frost", 2)
    assert (prepare.size, prepare.resized) == (224, None)
    assert "not resized, scored at the model's training size 224" in prepare.text()
    ((images, _),) = evalsets.build(sets["imagenet_c"], a1, "frost", 2, batch_size=24, workers=0).epoch()
    source = evalsets.open_pictures(sets["imagenet_c"], "frost", 2)
    assert all(np.array_equal(image.permute(1, 2, 0), source[i][0]) for image, i in zip(images, SEEN, strict=True))
    fixed = Preprocess.published({**published, "fixed_input_size": True}, "a network of one size")
    assert evalsets.prepare(sets["imagenet_c"], fixed, "frost", 2).resized == 288
    assert evalsets.prepare(named("imagenet")["imagenet"], a1, None, None).size == 288


def test_only_the_published_sets_are_official_and_not_where_make_imagenet_c_made_them(copies, tmp_path):
    sets = copied(copies)
    assert evalsets.origin(sets["imagenet_c"]) == evalsets.origin(named("imagenet_c_extra")["imagenet_c_extra"])
    assert evalsets.origin(sets["imagenet_c"]) == "official"
    mine = evalsets.EvalSet("corrupted", "imagefolder", str(tmp_path), corruptions=["fog"], severities=[1])
    assert evalsets.origin(mine) == "stored" and evalsets.origin_text(mine, "fog") == "stored copies; "
    (tmp_path / evalsets.GENERATED).write_text("{}")
    assert evalsets.origin(copied(tmp_path)["imagenet_c"]) == "generated"
    assert evalsets.origin(named("imagenet_c_generated")["imagenet_c_generated"]) == "generated"
    assert evalsets.origin(named("imagenet")["imagenet"]) is None


def test_two_generations_and_two_data_sets_are_different_pictures(copies, tmp_path):
    """The names and the folders are the same; generated.json says what the difference is."""
    for pair in ("fog", "frost"):
        (tmp_path / pair).symlink_to(copies / pair)
    evalset = copied(tmp_path)["imagenet_c"]
    source = evalsets.open_pictures(evalset, "fog", 1)
    record = {"seed": 0, "names": "aaaaaaaa", "format": "folders", "copies": {"fog/1": 1000}}

    def pictures(**changes):
        (tmp_path / evalsets.GENERATED).write_text(json.dumps({**record, **changes}))
        return evalsets.pictures_hash(evalset, source, "fog", 1)

    first = pictures()
    assert first == pictures(copies={"fog/1": 1000, "fog/2": 1000})  # more was made meanwhile
    assert len({first, pictures(seed=1), pictures(names="bbbbbbbb"), pictures(versions={"numpy": "1"})}) == 4
    (tmp_path / evalsets.GENERATED).write_text("{")
    with pytest.raises(ValueError, match="generated.json cannot be read"):
        evalsets.pictures_hash(evalset, source, "fog", 1)


# ---- what is counted ------------------------------------------------------------------------------------------------


def test_padding_of_the_last_batch_is_not_counted(renditions):
    """A compiled model sees one shape only; 200 pictures in batches of 64 leave 56 empty places, all answered class 0."""
    sets = named("imagenet_r", root=renditions, expect_n=200)
    model = Reader()
    padded = measured(sets, model=model, pad_to=64)["imagenet_r"]
    assert {shape[0] for shape in model.shapes} == {64}
    plain = measured(sets)["imagenet_r"]
    assert vars(padded.metrics) == vars(plain.metrics) and padded.metrics.n == 200
    assert all(np.array_equal(padded.predictions[key], plain.predictions[key]) for key in plain.predictions)


def test_a_mirror_image_counts_half(renditions):
    sets = named("imagenet_r", root=renditions, expect_n=200)
    model = Reader()
    both = measured(sets, model=model, flip_tta=True)["imagenet_r"]
    assert len(model.shapes) == 2 * 4 and both.metrics.n == 200
    assert both.metrics.nll != measured(sets)["imagenet_r"].metrics.nll


def _scored(rank, world, root, limit):
    sets = named("imagenet_r", "imagenet_r_200", root=root, limit=limit)
    model = Reader()
    found = measured(sets, model=model, rank=rank, world=world, batch_size=16)
    # A rank's own sums would differ in the last bit with the order of additions; these are added up by index.
    return {name: [vars(s.metrics), {k: v.tolist() for k, v in s.predictions.items()}] for name, s in found.items()}


@pytest.mark.parametrize("limit", [101, 1])
def test_two_ranks_are_one_process_to_the_last_bit(renditions, limit):
    """101 pictures: a sampler that fills up the ranks would count one of them twice. 1: the second rank has none."""
    alone = _scored(0, 1, str(renditions), limit)
    assert alone["imagenet_r"][0]["n"] == limit
    assert [alone, alone] == run_ranks(2, _scored, 2, str(renditions), limit)


def test_a_loader_that_gives_a_picture_twice_is_refused(renditions):
    """As torch's DistributedSampler does, to give every rank as many."""
    (evalset,) = named("imagenet_r", root=renditions, limit=10).values()
    source = evalsets.open_pictures(evalset)
    prepare = evalsets.prepare(evalset, SMALL, None, None)
    loader = PictureLoader(source, prepare, indices=np.array([*range(10), 0]), batch_size=4)
    with pytest.raises(ValueError, match="gave a picture twice"):
        score(Reader(), loader, {"x": evalsets.scoring(evalset, source)}, device="cpu", mean=[0.5] * 3, std=[0.5] * 3)


def test_a_part_without_a_picture_of_the_classes_is_refused(val):
    sets = named("imagenet_val_r", root=val[0], limit=1)
    assert subset(1000, 1)[0] not in R
    with pytest.raises(ValueError, match="none of the pictures is scored"):
        measured(sets)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_and_is_compiled_once(renditions):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 1000)).eval()
    sets = named("imagenet_r", root=renditions, expect_n=200)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = measured(sets, model=torch.compile(net, dynamic=False), pad_to=64)["imagenet_r"]
    again = measured(sets, model=torch.compile(net, dynamic=False), pad_to=64)["imagenet_r"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    plain = measured(sets, model=net)["imagenet_r"].metrics
    for found in (compiled.metrics, again.metrics):
        assert (found.n, found.top1, found.top5) == (plain.n, plain.top1, plain.top5)
        assert found.nll == pytest.approx(plain.nll, rel=1e-5)

"""The robustness card: its means against numbers made by hand, what it refuses to average, and what it writes."""

import io
import json
import statistics

import pytest
from PIL import Image
from scipy.stats import binomtest

from gsam.report import side_by_side
from gsam.report.card import make_card, write_card
from gsam.report.card_text import markdown, summary, terminal
from gsam.report.figures import robustness_card
from gsam.report.imagenet_c import ALEXNET, EXTRA
from gsam.report.tables import set_name
from gsam.report.write import png

from .cards import CLEAN, clean, corrupted, extra, plain, row


def by_hand():
    """ImageNet-C of a model whose error is AlexNet's at severity 3, 0.02 less per step below and more above, and at
    Gaussian noise half of AlexNet's."""
    rows = []
    for corruption, error in ALEXNET.items():
        scale = 0.5 if corruption == "gaussian_noise" else 1.0
        for severity in range(1, 6):
            top1 = 1 - scale * error - 0.02 * (severity - 3)
            rows.append(row("imagenet_c", 50_000, top1, corruption, severity, origin="official"))
    return rows


def test_mce_is_the_mean_of_relative_errors_and_not_the_mean_error():
    (group,) = make_card(by_hand()).corrupted
    assert group.relative("gaussian_noise") == pytest.approx(0.5) and group.relative("snow") == pytest.approx(1.0)
    assert group.mce == pytest.approx((0.5 + 14) / 15)
    # The mean of the published constants is 0.788993; half of Gaussian noise's 0.886428 is gone.
    assert 1 - group.mean.top1 == pytest.approx(0.788993 - 0.5 * 0.886428 / 15, abs=1e-6)
    assert "mean error 75.94 % over 15 corruptions x 5 severities, mCE 96.67 % (AlexNet = 100 %)" in summary(group)


def test_alexnet_is_at_a_hundred_per_cent_and_the_constants_are_the_published_ones():
    assert len(ALEXNET) == 15 and statistics.fmean(ALEXNET.values()) == pytest.approx(0.788993, abs=5e-7)
    rows = [row("imagenet_c", 50_000, 1 - e, c, s, origin="official") for c, e in ALEXNET.items() for s in range(1, 6)]
    assert make_card(rows).corrupted[0].mce == pytest.approx(1.0)


def test_every_line_has_its_numbers_and_interval():
    card = make_card(clean())
    assert [score.name for score in card.sets] == list(CLEAN)
    score = card.sets[2]
    assert (score.n, score.top1, score.top5, score.ece) == (10_000, 0.632, pytest.approx(0.782), 0.03)
    assert (score.low, score.high) == pytest.approx(tuple(binomtest(6_320, 10_000).proportion_ci(method="wilson")))
    assert "62.25 - 64.14" in terminal(card) and "| 62.25 - 64.14 |" in plain(markdown(card))


def test_near_nothing_right_the_interval_reaches_down_to_nothing_only():
    """Of 0 in 200, Wilson's interval is 0 to z^2 / (n + z^2) = 3.8415 / 203.8415 = 1.88 %: not 0.00 ± 0.94."""
    card = make_card([row("imagenet_a", 200, 0.0)])
    shown = [text.get_text() for axis in robustness_card.draw(card).axes for text in axis.texts]
    assert shown == ["0.00 (0.00–1.88)"] and "0.00 - 1.88" in terminal(card)
    assert "0.00 (0.00–1.88)" in side_by_side.markdown(side_by_side.side_by_side([("a", card)], {}))


def test_the_extra_four_stay_out_of_the_mean_and_have_no_mce():
    together = corrupted(corruptions=(*ALEXNET, *EXTRA))
    main, four = make_card(together).corrupted
    assert main.mean.top1 == pytest.approx(statistics.fmean(r["top1"] for r in corrupted()))
    assert main.mce == make_card(corrupted()).corrupted[0].mce
    assert four.corruptions == list(EXTRA) and four.mce is None and four.mean is not None
    assert "mean error" in summary(four) and "mCE" not in summary(four)


def test_official_and_generated_never_share_a_mean_or_a_table():
    rows = corrupted() + corrupted("imagenet_c_generated", "generated") + corrupted(origin="generated")
    card = make_card(clean("imagenet") + rows)
    assert sorted((group.name, group.origin) for group in card.corrupted) == [
        ("imagenet_c", "generated"), ("imagenet_c", "official"), ("imagenet_c_generated", "generated"),
    ]  # fmt: skip
    assert all(len(group.rows) == 75 for group in card.corrupted)
    (_, first), (title, second) = card.tables()
    assert title.startswith("Generated corruptions")
    assert [name for name, _ in first] == ["ImageNet", "ImageNet-C-official, mean"]
    assert [name for name, _ in second] == ["ImageNet-C-generated, mean", "ImageNet-C-generated, on the fly, mean"]


def test_copies_that_were_resized_for_the_model_are_named_as_such_everywhere(tmp_path):
    rows = clean("imagenet") + corrupted(resized=288) + extra(resized=288)
    text, name = write_card(tmp_path, rows, {}), "ImageNet-C-official, resized to 288"
    page = (tmp_path / "card/card.md").read_text()
    assert all(f"{name}, mean" in shown and f"{name}: mean error" in shown for shown in (text, page))
    assert "ImageNet-C-official, 4 extra, resized to 288, mean" in text
    titles = [axis.get_title(loc="left") for axis in robustness_card.draw(make_card(rows)).axes]
    assert any(title.startswith(name) for title in titles)
    assert set_name(rows[-1]) == "imagenet_c_extra (C-official) (resized to 288)"
    untouched = corrupted()  # of a model that takes the copies as they are: another line
    both = side_by_side.side_by_side([("a", make_card(rows)), ("b", make_card(untouched))], {})
    assert {"ImageNet-C-official", name} <= {line[0] for line in both.lines(generated=False)}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (corrupted()[:-1], "Missing 1: jpeg_compression 5"),
        (corrupted(corruptions=("snow",)), "Missing 70: gaussian_noise 1"),
        (
            corrupted()[:-1] + [row("imagenet_c", 100, 0.5, "jpeg_compression", 5, origin="official")],
            "there are 100 to 50,000",
        ),
    ],
    ids=["one severity", "one corruption", "another n"],
)
def test_an_incomplete_table_has_no_mean(rows, words):
    card = make_card(rows)
    (group,) = card.corrupted
    assert group.mean is None and group.mce is None and words in summary(group)
    assert "incomplete" in terminal(card) and "incomplete" in markdown(card)


def test_corruptions_of_other_data_have_a_mean_but_no_mce():
    rows = corrupted("fashion_mnist_c", "generated", ("snow", "fog"), num_classes=10)
    rows = [r for r in rows if r["severity"] == 3]
    (group,) = make_card(rows).corrupted
    assert group.mean.top1 == pytest.approx(statistics.fmean(r["top1"] for r in rows)) and group.mce is None
    assert group.label == "fashion_mnist_c (C-generated)" and group.severities == [3]


def test_a_row_that_was_written_again_counts_once_and_another_model_is_refused():
    again = row("imagenet", 50_000, 0.9)
    assert [s.top1 for s in make_card([*clean("imagenet"), again]).sets] == [0.9]
    for facts in ({"weights": "ema"}, {"flip_tta": True}, {"model": "other"}):
        rows = [*clean("imagenet"), row("imagenet_v2", 10_000, 0.5, **facts)]
        with pytest.raises(ValueError, match=f"these 2 rows differ in {next(iter(facts))}"):
            make_card(rows)
    assert (
        make_card(clean("imagenet", flip_tta=True, weights="ema")).title
        == "resnet50.a1_in1k (ema weights) with flip TTA"
    )


def test_card_on_disk_and_on_the_terminal(tmp_path):
    missing = {"imagenet_a": "evalsets.imagenet_a.root=/data/imagenet-a does not exist"}
    rows = [row | {"optimizer": "gsam", "m": 64} for row in clean("imagenet", "imagenet_v2") + corrupted()]
    text = write_card(tmp_path, rows, missing)
    assert "ImageNet-A, 200-way" in text and f"not run: imagenet_a: {missing['imagenet_a']}" in text
    assert "mCE 75.26 %" in text and max(map(len, text.splitlines())) < 160
    folder = tmp_path / "card"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "card.md", "card.png"]
    stored = json.loads((folder / "card.json").read_text())
    assert stored["not_run"] == missing and stored["subject"]["model"] == "resnet50.a1_in1k"
    assert stored["corrupted"][0]["mce"] == pytest.approx(0.7526, abs=5e-5)
    assert stored["corrupted"][0]["top1"]["snow"]["5"] == 0.24 and stored["sets"][0]["top1"] == 0.7613
    page = plain((folder / "card.md").read_text())
    assert "| ImageNet-A, 200-way | not run |" in page and "argmax over 1000 classes" in page and "![" in page
    assert "- optimizer: gsam\n- m: 64\n" in page and stored["subject"]["m"] == 64
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_card(tmp_path, rows, missing)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def evaluated(out, *rows, missing=()):
    """What evaluate.py does at its end: rows appended, card written from those of this call."""
    with open(out / "results.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return write_card(out, list(rows), {name: "no folder" for name in missing})


def sets_on(file):
    return [score["name"] for score in json.loads(file.read_text())["sets"]]


def test_a_later_set_is_added_to_the_card_and_its_last_row_counts(tmp_path):
    evaluated(tmp_path, *clean("imagenet", "imagenet_v2"), *corrupted())
    again = row("imagenet_v2", 10_000, 0.9)
    text = evaluated(tmp_path, *clean("imagenet_r"), again, missing=["imagenet", "imagenet_a"])
    assert sets_on(tmp_path / "card/card.json") == ["imagenet", "imagenet_v2", "imagenet_r"]
    assert "ImageNet-C-official, mean" in text and "90.00" in text and "not run: imagenet_a: no folder" in text
    assert "not run: imagenet:" not in text, "an earlier call has it"
    trial = row("imagenet", 60, 0.5, settings="limit 60")
    for rows, n in ((trial, 60), (again, 50_000)):  # what was asked for is shown; later, the whole set is back
        evaluated(tmp_path, rows)
        assert json.loads((tmp_path / "card/card.json").read_text())["sets"][0]["n"] == n


def test_other_models_and_ways_to_evaluate_in_one_folder_have_cards_of_their_own(tmp_path):
    evaluated(tmp_path, *clean("imagenet", "imagenet_v2", step=10))
    for facts in ({"flip_tta": True}, {"weights": "ema", "flip_tta": True}, {"checkpoint": "best.pt"},
                  {"preprocess": "resize 288 (bicubic)"}):  # fmt: skip
        evaluated(tmp_path, *clean("imagenet", **{"step": 10, **facts}))
    text = evaluated(tmp_path, *clean("imagenet_r", step=20))
    assert text.endswith(f"{tmp_path}/card/card-step20.md, card-step20.json, card-step20.png")
    stems = {path.stem for path in (tmp_path / "card").iterdir()}
    assert stems == {"card", "card-tta", "card-ema-tta", "card-best", "card-preprocess-4f618d3f", "card-step20"}
    assert sets_on(tmp_path / "card/card.json") == ["imagenet", "imagenet_v2"]
    assert sets_on(tmp_path / "card/card-step20.json") == ["imagenet_r"]
    assert "](card-tta.png)" in (tmp_path / "card/card-tta.md").read_text()
    evaluated(tmp_path, *clean("imagenet", "imagenet_v2", step=10))  # again (force): the names stay
    assert {path.stem for path in (tmp_path / "card").iterdir()} == stems


def test_nothing_run_writes_nothing(tmp_path):
    assert write_card(tmp_path, [], {"imagenet": "no folder"}) == "not run: imagenet: no folder"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("many", [False, True], ids=["two sets", "everything"])
def test_the_picture_grows_with_the_card_and_nothing_is_cut(many):
    generated = corrupted("imagenet_c_generated", "generated")
    card = make_card(clean() + corrupted() + extra() + generated if many else clean("imagenet", "imagenet_v2"))
    card.not_run = {"imagenet_sketch": "no folder"}
    figure = robustness_card.draw(card)
    image = Image.open(io.BytesIO(png(figure)))
    assert image.size[0] == (1840 if many else 720) and image.size[1] > (800 if many else 200)
    width, height = figure.canvas.get_width_height()
    shown = [
        text for axis in figure.axes for text in (*axis.texts, axis.title, axis._left_title, *axis.get_yticklabels())
    ]
    for text in shown + [label for part in figure.subfigs for axis in part.axes for label in axis.get_xticklabels()]:
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()
    assert "not run" in [text.get_text() for text in shown]

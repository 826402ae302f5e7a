"""What a checkpoint may be continued under; ranks that drift; the message for too little memory."""

import pytest
import torch

from gsam.optim import Scope
from gsam.runtime import Precision, Runtime
from gsam.train.memory import explained
from gsam.train.resume import compare, facts, refuse_drift
from gsam.train.stepper import effective_m
from tests.contract.matrix import Case, batches, stepper
from tests.ranks import run_ranks

NOW = {"config_hash": "1a2b3c4d", "m": 40, "world": 1, "mixed": None, "torch": "2.14.1", "device": "cpu"}


def test_another_m_is_refused_with_the_way_out():
    config = stepper(Case("gsam", Precision.fp32, 1, 1, 1, "bn")).config
    config.optimizer.group_size = None
    one, two = (facts(config, Runtime(torch.device("cpu"), 0, world)) for world in (1, 2))
    assert (one["m"], two["m"]) == (16, 8)
    with pytest.raises(ValueError, match=r"m=16 images per perturbation on 1 rank.*m=8 on 2: use 1 rank"):
        compare("last.pt", one, two)
    assert one["config_hash"] == two["config_hash"]
    config.optimizer.group_size = 8
    (note,) = compare("last.pt", *(facts(config, Runtime(torch.device("cpu"), 0, world)) for world in (1, 2)))
    assert note.startswith("note: number of ranks was 1") and "not bit for bit" in note


@pytest.mark.parametrize("method", ["vanilla", "entropy_sgd", "sam global"])
def test_another_number_of_ranks_that_mixes_other_pairs_is_said(method):
    """These methods' m does not depend on the ranks; their pairs do."""
    config = stepper(Case(method, Precision.fp32, 1, 1, 1, "bn")).config
    if hasattr(config.optimizer, "group_size"):
        config.optimizer.group_size = None

    def notes():
        return compare("last.pt", *(facts(config, Runtime(torch.device("cpu"), 0, world)) for world in (1, 2)))

    assert len(notes()) == 1
    config.augment.mixup = 0.2
    pairs, ranks = notes()
    assert "pairs other pictures from here on: within groups of 8, before of 16" in pairs and "use 1 rank(s)" in pairs
    assert "number of ranks" in ranks


def test_one_perturbation_for_all_ranks_has_the_whole_batch_as_m():
    config = stepper(Case("gsam", Precision.fp32, 1, 1, 1, "bn")).config
    config.optimizer.group_size, config.optimizer.scope = None, Scope["global"]
    assert effective_m(config, 2) == config.train.batch_size == 16


def test_a_checkpoint_of_another_run_is_refused():
    with pytest.raises(
        ValueError, match=r"another run \(configuration 1a2b3c4d.*run\.dir=.*model\.init=last\.pt starts a new"
    ):
        compare("last.pt", NOW, {**NOW, "config_hash": "00000000"})


@pytest.mark.parametrize(("key", "value"), [("torch", "2.9.0"), ("device", "cuda")])
def test_another_torch_or_device_is_a_note(key, value):
    assert compare("last.pt", NOW, NOW) == []
    (note,) = compare("last.pt", {**NOW, key: value}, NOW)
    assert value in note and NOW[key] in note


def test_drifted_ranks_are_stopped_and_the_first_tensor_named():
    for same, text in run_ranks(2, _drift):
        assert same and "step 7: the ranks have drifted apart, first in b;" in text


def _drift(rank):
    torch.manual_seed(0)
    state = {
        "a": torch.randn(50, 3),
        "n": torch.tensor(5),
        "b": torch.randn(9).bfloat16(),
        "c": torch.randn(2, 3, 4, 4),
    }
    state["c"] = state["c"].to(memory_format=torch.channels_last)
    runtime = Runtime(torch.device("cpu"), rank, 2)
    refuse_drift(runtime, state, 7)
    state["c"][0, 0, 0, 0] += rank * 1e-6
    state["b"].view(torch.int16)[4] += rank  # one unit in the last place
    try:
        refuse_drift(runtime, state, 7)
    except ValueError as error:
        return True, str(error)
    return False, ""


FITS = [(8, "train.accumulate=2 fits: 8 images"), (1, "train.accumulate=16 fits: 1 images"), (0, "does not fit either")]


@pytest.mark.parametrize(("fits", "words"), FITS)
def test_out_of_memory_names_the_accumulation_that_fits(fits, words):
    """The limit is set here: a layer raises torch's own error for more than `fits` images."""
    made = stepper(Case("gsam", Precision.bf16, 1, 1, 1, "bn"))

    def limited(module, args):
        if len(args[0]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines")

    made.model.stem[0].register_forward_pre_hook(limited)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        made.train_step(batches(made))
    text = str(explained(made, batches(made), caught.value))
    assert words in text and "train.accumulate=1" in text and "more lines" not in text


def test_out_of_memory_while_augmenting_is_not_blamed_on_the_micro_batches(monkeypatch):
    made = stepper(Case("gsam", Precision.fp32, 1, 1, 1, "bn"))
    given, asked = batches(made), []

    def augment(x, y, *, step, part):
        asked.append((len(x), step, part))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made, "augment", augment)
    text = str(explained(made, given, torch.OutOfMemoryError("CUDA out of memory")))
    assert "use more ranks, a smaller train.batch_size or augment.size" in text and "fits" not in text
    assert asked == [(16, 0, 0)]  # all of it at once, as in a step

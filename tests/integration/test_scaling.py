"""docs/scaling.md: a step sends what real ranks send, and moves what its operations move; the page is current and right."""

import gc
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch

from gsam.optim import BASES, ESTIMATORS, Step, estimate
from gsam.optim.engine import reduce_grads
from gsam.runtime import Runtime
from gsam.scaling import cost, inputs, page
from gsam.scaling.cost import efficiency, step
from gsam.scaling.count import count, networks
from gsam.scaling.traffic import METHODS, SIGNAL_BYTES, Network, payload_floats, wire_bytes
from gsam.train.signals import Signals
from tests.moved import moved
from tests.ranks import run_ranks
from tests.wire import METHOD, batches, counted, made

ROOT = Path(__file__).parents[2]
TEXT = page.PAGE.read_text()
IN_A_NAMESPACE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


# ---- what is sent ---------------------------------------------------------------------------------------------------


def profiled(job) -> list[int]:
    """Elements of every all-reduce in `job`, as torch's profiler saw them; no other collective may be there."""
    with torch.profiler.profile(record_shapes=True) as profile:
        job()
    events = [event for event in profile.events() if event.name.startswith("gloo:")]
    assert {event.name for event in events} == {"gloo:all_reduce"}
    return [sum(torch.Size(shape).numel() for shape in event.input_shapes) for event in events]


def reduced(rank: int) -> dict[str, torch.Tensor]:
    """By method: its network, then the all-reduces of the third step. And those of asking for signals."""
    found = {}
    for label in METHOD:
        ours = made(label, accumulate=2)
        for _ in range(2):  # DDP sends more in its first steps
            ours.train_step(batches(ours))
        network = counted(ours)
        sent = profiled(lambda ours=ours: ours.train_step(batches(ours)))
        found[label] = torch.tensor([network.parameters, network.tensors, network.buffers, *sent])
    with Signals(Runtime(torch.device("cpu"), rank, 2, rank)) as signals:
        signals.asked()  # asynchronous, and torch's profiler does not survive one that ends after it
        found["signals"] = torch.tensor([signals.state.nbytes])
    del ours
    gc.collect()  # a DDP module that outlives its process group now and then aborts the interpreter
    return found


def test_a_step_all_reduces_what_the_page_says():
    """Each rank has four groups of eight images, four of them at a time; neither is in the formula."""
    for found in run_ranks(2, reduced):
        assert found.pop("signals").tolist() == [SIGNAL_BYTES]
        for label, numbers in found.items():
            method, (network, sent) = METHOD[label], (Network("net", *numbers[:3].tolist(), 0), numbers[3:].tolist())
            assert network.buffers > 0 and sum(sent) == payload_floats(method, network, 2), label
            assert sum(size >= network.parameters for size in sent) == method.reductions, label
            assert len(sent) == method.reductions + (not method.local), label


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="a network namespace needs root and unshare"
)
@pytest.mark.parametrize("world", [2, 4])
def test_so_many_bytes_are_on_the_wire(world):
    """The counter of a loopback device that nobody else uses: all ranks' bytes, with up to 1 % of TCP's headers."""
    labels = ["vanilla", "GSAM, m = 64", "GSAM, scope=global"]
    command = [*IN_A_NAMESPACE, sys.executable, "-m", "tests.wire", str(world), *labels]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    if "unshare" in result.stderr and "not permitted" in result.stderr:
        pytest.skip("no network namespaces here")
    assert result.returncode == 0, result.stderr
    network = Network("small_convnet", 280_453, 14, 768, 0)
    for label, measured in json.loads(result.stdout).items():
        assert 1.0 < measured / (world * wire_bytes(METHOD[label], network, world)) < 1.01, label


# ---- what a step moves ----------------------------------------------------------------------------------------------

WEIGHTS = 100_000


def parameter() -> torch.nn.Parameter:
    found = torch.nn.Parameter(torch.randn(WEIGHTS))
    found.grad = torch.randn(WEIGHTS)
    return found


def estimated(method, groups: int = 1) -> float:
    """Floats per weight of `estimate` beyond the passes, in a later step."""
    weights = parameter()
    grads = [torch.randn(WEIGHTS) for _ in range(10)]  # made before: a pass costs nothing here

    def grad_fn(*, again: bool = False, batch: int = 0) -> torch.Tensor:
        weights.grad = grads.pop()
        return torch.zeros(())

    def job() -> None:
        estimate(method, [weights], [grad_fn] * groups, Step(3, 0.1, 0.05, 0.1))

    return moved(job, WEIGHTS)


@pytest.mark.parametrize(("base", "floats"), [("adamw", cost.ADAMW_FLOATS), ("sgd", cost.SGD_FLOATS)])
def test_floats_of_the_base_optimizer_and_of_clipping(base, floats):
    weights = parameter()
    optimizer = BASES[base]().build([{"params": [weights], "weight_decay": 0.1}])
    assert not optimizer.defaults["fused"]
    optimizer.param_groups[0]["foreach"] = True  # what torch chooses on a GPU
    optimizer.step()
    assert moved(optimizer.step, WEIGHTS) == pytest.approx(floats, abs=0.01)

    def clip() -> None:
        norm = torch.nn.utils.get_total_norm([weights.grad])
        torch.nn.utils.clip_grads_with_norm_([weights], 1.0, norm)

    assert moved(clip, WEIGHTS) == pytest.approx(cost.NORM_FLOATS, abs=0.01)


@pytest.mark.parametrize("name", ["gsam", "sam"])
def test_floats_of_groups(name):
    """What was measured, on a CPU, is at least what the operations move and at most a third more."""
    one, three = (estimated(ESTIMATORS[name](rho=0.1), groups) for groups in (1, 3))
    assert one < inputs.read().machine.copies[name] < 1.34 * one
    assert three - 3 * one == pytest.approx(cost.BANK_FLOATS * 2 + 2, abs=0.01)


def test_floats_of_entropy_sgd():
    for iterations in (1, 5):
        found = estimated(ESTIMATORS["entropy_sgd"](iterations=iterations))
        assert found == pytest.approx(cost.ENTROPY_FLOATS * iterations + cost.ENTROPY_ONCE, abs=0.01)


def test_floats_of_the_flat_all_reduce():
    """Beside the all-reduce itself."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        found = moved(partial(reduce_grads, [parameter()]), WEIGHTS)
    finally:
        torch.distributed.destroy_process_group()
    assert found == pytest.approx(cost.FLAT_FLOATS, abs=0.01)


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_command_writes():
    assert TEXT == page.page(inputs.read(), "img/scaling.png"), "run python scripts/scaling.py"
    assert page.PICTURE.exists()


def test_its_worked_sums_are_right():
    """Every `… = number` of an indented line, computed from what stands before it."""
    checked = 0
    for line in re.findall(r"^    (.*= .*\d.*)$", TEXT, re.M):
        for left, right, unit in re.findall(
            r"((?:[\d.,e+\-]+|[x/()+\- ])+) = ([\d,.e+]+)( ms| MB| images/s| cores| %)?", line.replace(" s =", " =")
        ):
            left = re.sub(r"(?<=\d),(?=\d)", "", left).strip(" ;:,").replace("x", "*")
            if not re.search(r"[*/+]", left):
                continue
            value, scale = float(right.replace(",", "")), 1e3 if unit == " ms" else 1.0
            assert scale * eval(left) == pytest.approx(value, rel=2e-3, abs=0.02), line
            checked += 1
    assert checked >= 25


def test_its_worked_times_add_up():
    """Passes, weights and what is exposed are the step; its efficiency is that of both times."""
    blocks = re.findall(r"R = (\d+): n = .*\n((?:    .+\n)+)", TEXT)
    assert len(blocks) == 4
    for gpus, block in blocks:
        parts = [re.search(rf"{name}: .* = ([\d.]+) ms", block)[1] for name in ("passes", "weights")]
        parts += re.findall(r"([\d.]+) ms(?:, all of it exposed|\n    t)", block.split("weights:")[1].split("\n", 1)[1])
        whole, alone = (re.search(rf"t\({n}\) = ([\d.]+) ms", block) for n in ("R", "1"))
        assert sum(map(float, parts)) == pytest.approx(float((whole or alone)[1]), abs=0.02), block
        if whole:
            found = float(alone[1]) / int(gpus) / float(whole[1])
            assert f"efficiency = t(1) / (R t(R)) = {100 * found:.0f} %" in block


def test_counts_and_measurements_are_those_of_their_sources():
    assert [row.name for row in inputs.read().networks.values()] == networks()
    assert asdict(count("resnet50")) == asdict(inputs.read().networks["resnet50"])
    data = (ROOT / "docs" / "data.md").read_text()
    for preset, key in (("500_jpeg90", "jpeg"), ("256_raw", "raw"), ("val", "val")):
        (measured,) = re.findall(rf"^\| `{preset}` \| [^|]* (?:px|are)[^|]*\| ([\d.]+) \|", data, re.M)
        assert float(measured) == inputs.read().value(f"{key}_mb_per_1000")
    for entry in inputs.read().stated.values():
        assert entry["source"].startswith(
            ("NVIDIA H100", "assumption; ", "docs/data.md, ", "per node", "DistributedData")
        )


def test_what_must_hold_for_any_numbers():
    known = inputs.read()
    for network in known.networks.values():
        for method in METHODS:
            for machine in (known.machine, known.slow):
                for gpus in (1, 8, 64):
                    found = step(method, network, machine, gpus, 4096, 64)
                    assert 0 <= found.exposed_s <= found.reduce_s and 0 < found.seconds
                    assert efficiency(method, network, machine, gpus, 4096, 64) <= 1.0 + 1e-9
            assert wire_bytes(method, network, 1) == 0


# ---- the command ----------------------------------------------------------------------------------------------------


def command(monkeypatch, capsys, *words) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["scaling.py", *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "scaling.py"), run_name="__main__")
    return left.value.code, "".join(capsys.readouterr())


def test_speeds_of_ones_own_gpus(monkeypatch, capsys, tmp_path):
    out = tmp_path / "mine.md"
    words = ["--images-per-second", "vit_b32=9000", "--set", "network_bytes_per_s=50e9", "--out", str(out)]
    assert command(monkeypatch, capsys, *words)[0] == 0
    text = out.read_text()
    assert "| images/s of one GPU, vit_b32 | 9,000 | given on the command line |" in text
    # 64 / (64 / 9,000 - 23 x 4 x 88,222,696 / 2.68e12): the base optimizer is in the step that was measured
    assert "= 15,676 images/s" in text and "| vit_b32 | 15,676 |" in text
    assert "| `network_bytes_per_s` | 5e+10 | given on the command line |" in text
    assert out.with_suffix(".png").exists() and page.PAGE.read_text() == TEXT
    assert command(monkeypatch, capsys, "--check") == (0, f"{page.PAGE}: current\n")
    assert command(monkeypatch, capsys, "--check", "--out", str(out))[0] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images-per-second", "vit_b32=fast", "--out", "x.md"], "vit_b32=fast: give <name>=<positive number>"),
        (["--images-per-second", "vit=1", "--out", "x.md"], "vit=…: unknown; choose one of mixer_b16, "),
        (["--images-per-second", "vit_b32=1e6", "--out", "x.md"], "the base optimizer alone takes 3.03 ms"),
        (["--set", "link_share=0.5"], "give --out FILE.md with your own"),
        (["--out", "x.png"], "--out x.png: give a name that ends in .md"),
        (["--out", "/proc/x.md"], "/proc/x.md: cannot be written ("),
        (["--set", "link=0.5", "--out", "x.md"], "--set link=…: unknown; choose one of gpu_flops_per_s, "),
    ],
)
def test_wrong_words_are_one_message(words, said, monkeypatch, capsys):
    code, text = command(monkeypatch, capsys, *words)
    assert code == 2 and text.startswith("error: ") and said in text and text.count("\n") == 1

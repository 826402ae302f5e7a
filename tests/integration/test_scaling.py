"""docs/scaling.md: what a step sends is what real ranks send; the page is current, and its sums are right."""

import gc
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from gsam.runtime import Runtime
from gsam.scaling import inputs, page
from gsam.scaling.cost import efficiency, step
from gsam.scaling.count import count, networks
from gsam.scaling.traffic import METHODS, SIGNAL_BYTES, Network, payload_floats, wire_bytes
from gsam.train.signals import Signals
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


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_command_writes():
    assert TEXT == page.page(inputs.read(), "img/scaling.png"), "run python scripts/scaling.py"
    assert page.PICTURE.exists()


def test_its_worked_sums_are_right():
    """Every `… = number` of an indented line, computed from what stands before it."""
    checked = 0
    for line in re.findall(r"^    (.*= .*\d.*)$", TEXT, re.M):
        for left, right, unit in re.findall(
            r"((?:[\d.,e+\-]+|[x/()+\- ])+) = ([\d,.e+]+)( ms| MB| images/s| cores| %)?", line
        ):
            left = re.sub(r"(?<=\d),(?=\d)", "", left.replace(" s", "")).strip(" ;:,").replace("x", "*")
            if not re.search(r"[*/+]", left):
                continue
            value, scale = float(right.replace(",", "")), 1e3 if unit == " ms" else 1.0
            assert scale * eval(left) == pytest.approx(value, rel=2e-3, abs=0.02), line
            checked += 1
    assert checked >= 25


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
    assert "**s of vit_b32 is given**: 9,000 images/s" in text and "| vit_b32 | 9,000 |" in text
    assert "| `network_bytes_per_s` | 5e+10 | given on the command line |" in text
    assert out.with_suffix(".png").exists() and page.PAGE.read_text() == TEXT
    assert command(monkeypatch, capsys, "--check") == (0, f"{page.PAGE}: current\n")
    assert command(monkeypatch, capsys, "--check", "--out", str(out))[0] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images-per-second", "vit_b32=fast", "--out", "x.md"], "vit_b32=fast: give <name>=<positive number>"),
        (["--images-per-second", "vit=1", "--out", "x.md"], "vit=…: unknown; choose one of mixer_b16, "),
        (["--set", "link_share=0.5"], "give --out FILE.md with your own"),
        (["--set", "link=0.5", "--out", "x.md"], "--set link=…: unknown; choose one of gpu_flops_per_s, "),
    ],
)
def test_wrong_words_are_one_message(words, said, monkeypatch, capsys):
    code, text = command(monkeypatch, capsys, *words)
    assert code == 2 and text.startswith("error: ") and said in text and text.count("\n") == 1

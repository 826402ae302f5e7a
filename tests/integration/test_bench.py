"""The benchmarks run and print one JSON object with the ratios they promise, on a small model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(script, *args):
    command = [sys.executable, f"scripts/bench/{script}.py", "--json", "--rounds", "3", *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_optimizer(tmp_path):
    record = tmp_path / "results.jsonl"
    result = bench("optimizer", "--model", "resnet18", "--record", str(record))
    assert (
        result == json.loads(record.read_text()) and result["benchmark"] == "optimizer" and result["pytorch_optimizer"]
    )
    assert result["parameters"] == 11_689_512 and result["bandwidth_gb_s"] > 0.5
    assert {"ratio_to_floor", "ratio_to_peer", "floor_s", "gsam_overhead_s", "peer_gsam_overhead_s"} <= result.keys()
    assert {"copies_1_groups", "copies_4_groups", "device", "torch"} <= result.keys()


@pytest.mark.parametrize(
    "args", [["--no-compile"], pytest.param([], marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_train_step(args):
    small = ["--model", "vit_tiny_patch16_224", "--batch", "2", "--size", "64"]
    result = bench("train_step", *small, *args)
    assert 1 < result["gsam_to_vanilla"] < 6 and result["vanilla_to_plain"] > 0
    low, high = result["gsam_to_vanilla_quartiles"]
    assert low <= result["gsam_to_vanilla"] <= high and result["compile"] is (not args)


def test_evaluate():
    result = bench("evaluate", "--model", "test_vit", "--pictures", "32", "--batch", "16", "--workers", "1")
    assert result["ratio"] > 0 and result["core_ratio"] > 0.3 and result["size"] == 160
    assert {"decode_per_s", "forward_per_s", "evaluate_per_s", "device", "torch"} <= result.keys()


@pytest.mark.slow
def test_loader():
    pytest.importorskip("ffcv")
    result = bench("loader", "--pictures", "64", "--batch", "16")
    for name in ("ffcv_raw", "ffcv_jpeg", "pil_jpeg", "pil_raw", "tv_jpeg"):
        assert result[f"ratio_to_{name}"] > 0.3 and result[f"core_ratio_to_{name}"] > 0.3
    assert result["jpeg_decode_cut_us"] < result["jpeg_decode_whole_us"]
    assert result["second_start_first_batch_s"] < result["first_start_first_batch_s"]


def test_evaluation_lets_idle_threads_sleep_unless_the_user_says_otherwise(monkeypatch):
    from gsam.cli import share_cores

    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.slow
def test_hessian_vector_product(fashion_root):
    result = bench("hvp", "--pictures", "50", "--batch", "25", "--root", str(fashion_root))
    assert result["benchmark"] == "hvp" and result["parameters"] == 281_258
    assert result["hvp_to_gradient"] < result["hvp_no_graph_to_gradient"]

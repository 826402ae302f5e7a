"""Rows of results.jsonl for the tests of the card. The numbers are invented and are results of nothing."""

import re

from gsam.report.imagenet_c import ALEXNET, EXTRA

CLEAN = {
    "imagenet": (50_000, 0.7613), "imagenet_real": (46_837, 0.8291), "imagenet_v2": (10_000, 0.6320),
    "imagenet_v2_threshold": (10_000, 0.7240), "imagenet_v2_top": (10_000, 0.7750), "imagenet_val_r": (10_000, 0.9150),
    "imagenet_r_200": (30_000, 0.3610), "imagenet_r": (30_000, 0.2410), "imagenet_val_a": (10_000, 0.8990),
    "imagenet_a": (7_500, 0.0350), "imagenet_a_1000": (7_500, 0.0070), "imagenet_sketch": (50_889, 0.2420),
}  # fmt: skip


def row(evalset: str, n: int, top1: float, corruption=None, severity=None, **facts) -> dict:
    return {
        "kind": "result", "evalset": evalset, "corruption": corruption, "severity": severity, "n": n, "top1": top1,
        "top5": min(1.0, top1 + 0.15), "nll": 1 - top1, "ece": 0.03, "model": "resnet50.a1_in1k", "weights": "raw",
        "checkpoint": "timm:resnet50.a1_in1k", "step": None, "num_classes": 1000, "origin": None, "precision": "fp32",
        "protocol": "short side to 256 (bilinear), centre crop 224; argmax over 1000 classes", **facts,
    }  # fmt: skip


def clean(*names: str, **facts) -> list[dict]:
    return [row(name, *CLEAN[name], **facts) for name in names or CLEAN]


def corrupted(evalset="imagenet_c", origin="official", corruptions=tuple(ALEXNET), n=50_000, **facts) -> list[dict]:
    """Errors of 1 - 0.09 * severity of AlexNet's accuracy and so on: any smooth table."""
    return [
        row(evalset, n, round((1 - 0.6 * ALEXNET.get(c, 0.8)) * (1.2 - 0.14 * s), 4), c, s, origin=origin, **facts)
        for c in corruptions
        for s in range(1, 6)
    ]


def extra(**facts) -> list[dict]:
    return corrupted("imagenet_c_extra", corruptions=EXTRA, **facts)


def plain(page: str) -> str:
    """Markdown without the spaces that align its columns."""
    return re.sub(" +", " ", page)

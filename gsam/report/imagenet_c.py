"""ImageNet-C's corruptions and the constants of its mCE."""

# Mean top-1 errors of AlexNet over the five severities, by which mCE divides; in the order of the paper. Hendrycks and
# Dietterich 2019 (github.com/hendrycks/robustness), as ALEXNET_ERR of github.com/google-research/augmix (imagenet.py).
ALEXNET = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}  # fmt: skip
EXTRA = (
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
)  # for validation; no constants are published for these
SEVERITIES = (1, 2, 3, 4, 5)


def is_extra(row: dict) -> bool:
    """A corruption of ImageNet that its mean does not count; `row` of results.jsonl."""
    return is_imagenet(row) and row["corruption"] not in ALEXNET


def is_imagenet(row: dict) -> bool:
    """mCE and the extra corruptions are words about models of ImageNet's 1000 classes."""
    return row.get("num_classes") == 1000

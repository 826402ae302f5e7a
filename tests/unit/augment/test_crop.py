"""The training crop's distribution against the definition of TensorFlow's sample_distorted_bounding_box, worked out without
drawing: the aspect ratio on a fine grid, each height that the area range allows equally often, every offset below H - h."""

import math

import numpy as np
import pytest

from gsam.data.keyed import inception_box

AREA, ASPECT, DRAWS = (0.05, 1.0), (0.75, 1.33), 12_000


def definition(height, width):
    """Probability of each (rows, columns), float64 (height + 1, width + 1): of the boxes that the rule accepts at once."""
    table = np.zeros((height + 1, width + 1))
    grid = np.linspace(*ASPECT, 20_001)
    for aspect in (grid[:-1] + grid[1:]) / 2:
        least, most = (round(math.sqrt(share * height * width / aspect)) for share in AREA)
        most = min(most, height, math.floor((width + 0.5 - 1e-7) / aspect))
        rows = np.arange(min(least, most), most + 1)
        columns = np.rint(rows * aspect).astype(int)
        fits = (
            (columns <= width)
            & (rows * columns >= AREA[0] * height * width)
            & (rows * columns <= AREA[1] * height * width)
        )
        np.add.at(table, (rows[fits], columns[fits]), 1 / len(rows))
    return table / table.sum()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (64, 64)])
def test_boxes_have_the_defined_distribution(height, width):
    boxes = np.array([inception_box(5, 1, i, height, width, *AREA, *ASPECT) for i in range(DRAWS)])
    top, left, rows, columns = boxes.T
    table = definition(height, width)
    limit = 1.95 / math.sqrt(DRAWS)  # Kolmogorov: 1 in 1000
    for found, expected in ((rows, table.sum(1)), (columns, table.sum(0))):
        counts = np.bincount(found, minlength=len(expected)) / DRAWS
        assert abs(counts.cumsum() - expected.cumsum()).max() < limit
    sizes = np.multiply.outer(np.arange(height + 1), np.arange(width + 1)) / (height * width)
    area = rows * columns / (height * width)
    spread = math.sqrt((table * sizes**2).sum() - (table * sizes).sum() ** 2)
    assert abs(area.mean() - (table * sizes).sum()) < 4 * spread / math.sqrt(DRAWS)
    for offset, free in ((top, height - rows), (left, width - columns)):
        place = (offset[free > 20] + 0.5) / free[free > 20]  # uniform on 0..1
        assert abs(np.sort(place) - (np.arange(len(place)) + 0.5) / len(place)).max() < 1.95 / math.sqrt(len(place))
        assert (offset < np.maximum(free, 1)).all()
    assert abs(np.corrcoef(top / np.maximum(height - rows, 1), left / np.maximum(width - columns, 1))[0, 1]) < 0.05

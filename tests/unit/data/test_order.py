"""Order of an epoch, free memory, and the choice between the two orders."""

import os
from pathlib import Path

import numpy as np
import pytest

from gsam.data import Backend, DataConfig, Order
from gsam.data import order as orders
from gsam.data.order import BLOCK, WINDOW, Readahead, cgroup_free, drawn, free_memory, settle
from gsam.data.plan import Plan


@pytest.mark.parametrize("n", [1, BLOCK + 1, 40_000])
def test_quasi_random_takes_every_picture_once_and_every_epoch_differently(n):
    epochs = [drawn(Order.quasi_random, seed, epoch, n) for seed, epoch in ((5, 0), (5, 1), (6, 0), (5, 0))]
    assert all(np.array_equal(np.sort(each), np.arange(n)) for each in epochs)
    assert np.array_equal(epochs[0], epochs[3])
    assert n < 2 or len({each.tobytes() for each in epochs}) == 3


def test_a_window_is_whole_blocks_from_everywhere_and_shuffled_inside():
    """So that it is read in pieces, while a batch still has pictures of most classes of a split sorted by class."""
    pictures, n = drawn(Order.quasi_random, 5, 0, 4 * WINDOW), 4 * WINDOW
    window = pictures[WINDOW : 2 * WINDOW]
    blocks, counts = np.unique(window // BLOCK, return_counts=True)
    assert len(blocks) == WINDOW // BLOCK and set(counts) == {BLOCK}
    assert len(np.unique(window * 100 // n)) == 100  # of 100 classes
    assert len(np.unique(window[:256] * 100 // n)) > 80  # 92 of a permutation of everything
    neighbours = np.abs(np.diff(window)) < BLOCK
    assert neighbours.mean() < 0.01


def test_quasi_random_is_the_same_global_batch_on_any_number_of_ranks():
    def plan(rank, world):
        return Plan(np.arange(101), 12 // world, rank, world, 5, True, Order.quasi_random)

    one = plan(0, 1).order(3).reshape(-1, 12)
    three = np.concatenate([plan(rank, 3).order(3).reshape(-1, 4) for rank in range(3)], axis=1)
    assert np.array_equal(one, three)


def test_the_next_window_is_asked_for_in_few_pieces_that_hold_every_picture(tmp_path):
    """Pictures of 50 kB, stored in the order of the split, as the writer does."""
    n = 20 * WINDOW
    sizes = np.random.default_rng(0).integers(30_000, 70_000, n)
    starts = np.cumsum(sizes) - sizes
    pictures = drawn(Order.quasi_random, 5, 0, n)
    ahead = Readahead("unused", starts, sizes, pictures)
    pieces = ahead.pieces(3)
    window = pictures[3 * WINDOW : 4 * WINDOW]
    holder = np.searchsorted(pieces[:, 0], starts[window], side="right") - 1
    assert ((starts[window] + sizes[window]) <= pieces.sum(1)[holder]).all()
    assert len(pieces) <= WINDOW // BLOCK and pieces[:, 1].sum() < 1.01 * sizes[window].sum()
    assert (np.diff(pieces[:, 0]) > 0).all()
    assert len(ahead.pieces(20)) == 0  # beyond the end
    alone = Readahead("unused", starts, sizes, drawn(Order.random, 5, 0, n))
    assert len(alone.pieces(3)) > 10 * len(pieces)


@pytest.mark.parametrize("ranks", [1, 3])
def test_every_piece_of_every_window_is_asked_for_once_by_the_ranks_together(tmp_path, monkeypatch, ranks):
    n = 3 * WINDOW
    sizes = np.full(n, 40)
    starts = np.cumsum(sizes) - sizes
    (tmp_path / "file").write_bytes(bytes(n * 40))
    asked, advise = [], os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: (asked.append(args[1:]), advise(*args)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    for rank in range(ranks):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        ahead = Readahead(str(tmp_path / "file"), starts, sizes, drawn(Order.quasi_random, 5, 0, n))
        for position in range(0, n, WINDOW // 2):
            ahead.reached(position)
        ahead.close()
    wanted = [tuple(piece) for window in range(3) for piece in ahead.pieces(window).tolist()]
    assert sorted(asked) == sorted((*piece, os.POSIX_FADV_WILLNEED) for piece in wanted)


GROUPS_V1 = """11:devices:/
4:cpu,memory:/job/7
0::/job/7
"""


def group(folder: Path, limit, usage, current, **stat):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit[0]).write_text(f"{limit[1]}\n")
    (folder / usage).write_text(f"{current}\n")
    (folder / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in stat.items()))


def test_cgroup_limits_of_both_versions_at_every_level(tmp_path):
    """The files as Linux writes them; what is cached counts as free, a limit of a parent holds too."""
    membership = tmp_path / "cgroup"
    membership.write_text(GROUPS_V1)
    v1 = (tmp_path / "v1" / "memory", "memory.usage_in_bytes")
    group(
        v1[0] / "job" / "7", ("memory.limit_in_bytes", 1000), v1[1], 700, total_inactive_file=300, total_active_file=50
    )
    group(v1[0], ("memory.limit_in_bytes", 9223372036854771712), v1[1], 5000, total_inactive_file=1)
    assert min(cgroup_free(membership, tmp_path / "v1")) == 650
    v2 = tmp_path / "v2"
    group(v2 / "job" / "7", ("memory.max", "max"), "memory.current", 700, inactive_file=300, active_file=0)
    group(v2 / "job", ("memory.max", 2000), "memory.current", 1900, inactive_file=20, active_file=30)
    assert list(cgroup_free(membership, v2)) == [150]


def test_in_a_container_the_group_is_the_top_of_the_mount(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("0::/kubepods/pod1/abc\n")  # the host's path, which is not mounted
    group(tmp_path / "fs", ("memory.max", 4000), "memory.current", 1000, inactive_file=0, active_file=500)
    assert list(cgroup_free(membership, tmp_path / "fs")) == [3500]
    assert list(cgroup_free(tmp_path / "missing", tmp_path / "fs")) == []


def test_free_memory_of_this_machine():
    free, whose = free_memory()
    assert 1 << 26 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") and whose.endswith("memory")


@pytest.fixture
def beton(tmp_path):
    """A file of 3 GiB that takes no room: only its size is looked at."""
    with open(tmp_path / "train.beton", "wb") as file:
        file.truncate(3 << 30)
    return DataConfig("imagefolder", Backend.ffcv, ffcv_root=str(tmp_path))


@pytest.mark.parametrize(
    "free_gib, ranks, order, words",
    [
        (5, 1, "random", "it stays in memory"),
        (5, 4, "quasi_random", "block by block"),
        (2, 1, "quasi_random", "has 3.00 GiB, of the host's memory 2.0 GiB are free for it and 1 rank"),
    ],
)
def test_auto_compares_the_file_with_free_memory_and_ranks(beton, monkeypatch, free_gib, ranks, order, words):
    monkeypatch.setattr(orders, "free_memory", lambda: (free_gib << 30, "the host's memory"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    settled, why = settle(beton, None)
    assert settled.order.name == order and words in why and settled.ffcv_root == beton.ffcv_root


def test_a_run_keeps_the_order_it_began_with_and_a_stated_order_is_kept(beton, monkeypatch):
    monkeypatch.setattr(orders, "free_memory", lambda: (1 << 40, "the host's memory"))
    assert settle(beton, "quasi_random")[0].order is Order.quasi_random  # there would be room for random
    beton.order = Order.random
    monkeypatch.setattr(orders, "free_memory", lambda: (1 << 30, "the host's memory"))
    settled, why = settle(beton, None)
    assert settled.order is Order.random and "quasi_random would read blocks" in why
    assert settle(DataConfig("imagefolder", Backend.folder), None)[0].order is Order.random

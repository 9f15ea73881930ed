"""saccade.token_order: a permutation whose runs are small boxes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import saccade

EXTENTS = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
BOXES = st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 14))


def places(extents, box):
    """Frame, row and column of each token in its order, [3, tokens]."""
    _, height, width = extents
    order = saccade.token_order(*extents, box)
    return torch.stack([order // (height * width), order // width % height, order % width])


def axes_of(extents, box):
    """The axis along the strips, and the two across."""
    along = max((axis for axis in range(3) if box[axis] < extents[axis]), default=0)
    return along, [axis for axis in range(3) if axis != along]


def extents_of(run):
    return (run.amax(1) - run.amin(1) + 1).tolist()


@given(EXTENTS, BOXES)
def test_it_is_a_permutation_and_has_an_inverse(extents, box):
    order = saccade.token_order(*extents, box)
    tokens = torch.arange(math.prod(extents))
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, tokens)
    assert torch.equal(order[saccade.inverse_order(order)], tokens)
    assert torch.equal(saccade.inverse_order(order)[order], tokens)


@given(EXTENTS, st.integers(1, 14))
def test_boxes_of_whole_frames_are_the_order_of_diffusers(extents, depth):
    order = saccade.token_order(*extents, (depth, *extents[1:]))
    assert torch.equal(order, torch.arange(math.prod(extents)))


@given(EXTENTS, BOXES)
def test_neighbours_in_the_order_are_near_in_the_latent(extents, box):
    along, across = axes_of(extents, box)
    steps = places(extents, box).diff().abs()
    assume(steps.numel())
    assert steps[along].max() <= 1
    for axis in across:
        assert steps[axis].max() < 2 * box[axis]


@given(EXTENTS, BOXES, st.data())
def test_a_run_is_a_box_of_one_column_more_wherever_it_begins(extents, box, data):
    along, across = axes_of(extents, box)
    thinnest = math.prod(extents[a] // math.ceil(extents[a] / box[a]) for a in across)
    length = data.draw(st.integers(1, thinnest * extents[along]))
    start = data.draw(st.integers(0, math.prod(extents) - length))
    covered = extents_of(places(extents, box)[:, start : start + length])
    assert covered[along] <= math.ceil(length / thinnest) + 1
    # It is at most as long as a strip and may begin in one and end beside it, in the next one.
    excess = [covered[axis] > box[axis] for axis in across]
    assert sum(excess) <= 1
    assert all(covered[axis] <= 2 * box[axis] for axis in across)


@pytest.mark.parametrize("box", [(4, 4, 8), (2, 8, 8), (8, 4, 4), (1, 8, 16)])
def test_tiles_are_the_boxes_where_all_divide(box):
    place = places((16, 16, 32), box)
    for run in place.split(128, 1):
        assert extents_of(run) == list(box)
    for run in place.split(64, 1):
        assert extents_of(run) == [*box[:2], box[2] // 2]


def test_a_small_order_by_hand():
    order = saccade.token_order(2, 2, 3, (2, 1, 2))
    #         frame 0: 0 1 2   frame 1: 6 7  8
    #                  3 4 5            9 10 11
    assert order.tolist() == [0, 6, 1, 7, 2, 8, 5, 11, 4, 10, 3, 9]


@pytest.mark.parametrize(
    ("latent", "blocks", "box"),
    [
        ((16, 16, 16), (64, 64), (4, 4, 4)),
        ((16, 16, 16), (128, 64), (4, 4, 8)),
        ((1, 64, 64), (64, 64), (1, 8, 8)),
        ((21, 30, 52), (128, 64), (6, 5, 6)),
        ((2, 5, 6), (128, 64), (2, 5, 6)),
        ((1, 1, 300), (128, 64), (1, 1, 128)),
    ],
)
def test_chosen_boxes(latent, blocks, box):
    assert saccade.choose_box(*latent, *blocks) == box


@given(st.tuples(st.integers(4, 24), st.integers(8, 32), st.integers(8, 32)))
def test_chosen_boxes_make_compact_tiles(extents):
    def spread(box):
        runs = places(extents, box)[:, : math.prod(extents) // 64 * 64].unflatten(1, (-1, 64))
        return runs.float().var(2, correction=0).sum(0).mean()

    # A cube of 64 tokens has 3.75. Twice that leaves room for extents that do not divide.
    assert spread(saccade.choose_box(*extents, 64, 64)) < min(7.5, spread((1, *extents[1:])))


@pytest.mark.parametrize("box", [(0, 4, 4), (4, 4), (4, 4, 4.0), (4, -1, 4), 64, None, "4x4x4"])
def test_illegal_boxes_are_refused(box):
    with pytest.raises(saccade.InvalidArgument, match=r"a box is \(frames, rows, columns\)"):
        saccade.token_order(8, 8, 8, box)


@pytest.mark.parametrize(("extents", "name"), [((0, 8, 8), "frames"), ((8, -1, 8), "height")])
def test_illegal_extents_are_refused(extents, name):
    for function in (saccade.choose_box, lambda *e: saccade.token_order(*e, (4, 4, 4))):
        with pytest.raises(saccade.InvalidArgument, match=f"{name} must be at least 1"):
            function(*extents)


def test_illegal_blocks_are_refused():
    with pytest.raises(saccade.InvalidArgument, match="block_k must be 64 or 128, got 32"):
        saccade.choose_box(8, 8, 8, 128, 32)

"""Operation counts of SLA against the published ones and against what is routed."""

import pytest
import torch

import saccade
from saccade import TileGrid, sla_operations

WAN = TileGrid(1, 12, 32760, 32760, block_q=64, block_k=64)  # Wan2.1-1.3B, 480p
FULL = 52.75  # arXiv 2509.24006 table 1, in T: for the ratio, whatever it counts


@pytest.mark.parametrize(("critical", "published"), [(0.05, 2.74), (0.10, 5.38), (0.20, 10.65)])
def test_sparse_and_linear_branch_are_as_published(critical, published):
    """The paper counts shares as they are, and one of the two products of the linear branch."""
    count = sla_operations(WAN, 128, critical=critical)
    share = critical + count.queries / count.full
    assert share == pytest.approx(published / FULL, rel=2e-3)
    assert count.sparse / count.full == pytest.approx(critical, rel=0.03)
    assert count.sparse / count.full <= critical


def test_what_the_paper_leaves_out_is_small():
    count = sla_operations(WAN, 128)
    assert count.full == pytest.approx(4 * 32760**2 * 128 * 12)
    assert count.share == pytest.approx(0.0575, abs=1e-4)
    assert count.routing / count.full < 1e-3
    assert count.projection == pytest.approx(count.queries, rel=0.01)
    assert count.total == pytest.approx(
        count.routing + count.sparse + count.linear + count.projection
    )


def test_hedgehog_and_linear_over_all_tokens():
    softmax = sla_operations(WAN, 128)
    hedgehog = sla_operations(WAN, 128, feature_map="hedgehog")
    assert hedgehog.sums > 2 * softmax.sums
    assert hedgehog.additions == pytest.approx(2 * softmax.additions)
    everything = sla_operations(WAN, 128, linear="all")
    assert everything.additions < 0.01 * softmax.additions
    assert everything.sparse == softmax.sparse


def test_few_marginal_tiles_are_added_directly():
    """Tables take a third of the additions of all pairs, however few tiles are met."""
    grid = TileGrid(1, 1, 4096, 4096, block_q=64, block_k=64)
    few = sla_operations(grid, 64, critical=0.5, negligible=0.4)
    met = 64 - 32 - 25
    assert few.additions == pytest.approx(64 * met * 64 * 65)
    assert sla_operations(grid, 64, critical=64, negligible=0.4).additions == 0


def test_shares_are_rounded_as_routing_rounds_them():
    q = torch.randn(1, 2, 700, 16)
    critical, _ = saccade.select_tiles(q, q, critical=0.3)
    count = sla_operations(critical.grid, 16, critical=0.3)
    kept = int(critical.count_by_head().sum())
    assert count.sparse == pytest.approx(4 * 16 * 700 * 64 * kept / critical.grid.shape[2])


def test_effective_rate():
    assert sla_operations(WAN, 128).effective_flops(2.0) == pytest.approx(2 * 32760**2 * 128 * 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critical": 1.5}, "critical must be at most 1.0"),
        ({"critical": -1}, "critical"),
        ({"negligible": True}, "negligible"),
        ({"head_dim": 0}, "head_dim must be at least 1"),
    ],
)
def test_illegal_arguments_are_refused(options, message):
    head_dim = options.pop("head_dim", 64)
    with pytest.raises(saccade.InvalidArgument, match=message):
        sla_operations(WAN, head_dim, **options)


def test_times_must_be_positive():
    with pytest.raises(saccade.InvalidArgument, match="greater than 0"):
        sla_operations(WAN, 64).effective_flops(0)

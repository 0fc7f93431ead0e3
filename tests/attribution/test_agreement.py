"""Rank correlation of maps against SciPy."""

import pytest
import torch
from scipy.stats import rankdata, spearmanr

from pellucid.attribution.agreement import agreement, average_ranks, rank_correlation


def maps(count=6, size=(16, 16), seed=0):
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))


def cells(heat, number):
    """Positive part, averaged over cells, one cell at a time."""
    heat, side = heat.clamp(min=0), heat.shape[-1] // number
    return [
        float(heat[y * side : (y + 1) * side, x * side : (x + 1) * side].mean())
        for y in range(number)
        for x in range(number)
    ]


def test_it_agrees_with_scipy():
    first, second = maps(), maps(seed=1) + 0.5 * maps()
    found = rank_correlation(first, second, (16, 16), cells=8)
    wanted = [
        spearmanr(cells(a, 8), cells(b, 8)).statistic for a, b in zip(first, second, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-3, rtol=0)
    assert found.abs().max() < 0.95


def test_ranks_agree_with_scipy_with_ties_and_without_some():
    values = torch.randint(0, 5, (7, 20), generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.tensor(rankdata(values.numpy(), axis=1)) - 1
    torch.testing.assert_close(average_ranks(values), wanted)
    values[2, 3] = values[2, 9] = torch.nan
    found = average_ranks(values)[2]
    known = ~values[2].isnan()
    wanted = torch.tensor(rankdata(values[2][known].numpy())) - 1
    torch.testing.assert_close(found[known], wanted)
    assert found[[3, 9]].isnan().all()


def test_known_answers():
    some = maps().abs()
    size = (16, 16)
    torch.testing.assert_close(rank_correlation(some, some**3, size), torch.ones(6).double())
    opposite = some.amax() - some
    found = rank_correlation(some, opposite, size, cells=16)
    torch.testing.assert_close(found, -torch.ones(6).double())
    # All cells alike, or nothing above zero, ranks nothing.
    assert rank_correlation(some, torch.ones(6, 3, 3), size).isnan().all()
    assert rank_correlation(some, -some, size).isnan().all()


def test_grids_of_any_fineness_compare():
    coarse = maps(3, (4, 4)).abs()
    fine = torch.nn.functional.interpolate(coarse[:, None], (16, 16), mode="bilinear")[:, 0]
    found = rank_correlation(coarse, fine, (16, 16))
    torch.testing.assert_close(found, torch.ones(3).double(), atol=1e-4, rtol=0)


def test_the_matrix_is_that_of_the_pairs():
    given = {"a": maps().abs(), "b": maps(seed=1).abs(), "c": maps(6, (4, 4), 2).abs()}
    found = agreement(given, (16, 16))
    assert found.methods == ("a", "b", "c")
    matrix = found.rank_correlation
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3).double())
    torch.testing.assert_close(matrix, matrix.T)
    pair = rank_correlation(given["a"], given["c"], (16, 16)).mean()
    torch.testing.assert_close(matrix[0, 2], pair)
    given["b"][1:] = torch.nan
    one = rank_correlation(given["a"][:1], given["b"][:1], (16, 16))[0]
    torch.testing.assert_close(agreement(given, (16, 16)).rank_correlation[0, 1], one)
    given["b"][0] = 1.0
    assert agreement(given, (16, 16)).rank_correlation[1].isnan().all()
    assert agreement({}, (16, 16)).rank_correlation.shape == (0, 0)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="cells must be from 2 to 16, the side of the image"):
        rank_correlation(maps(), maps(), (16, 16), cells=17)
    with pytest.raises(ValueError, match="image is 8 x 8, maps are 16 x 16"):
        rank_correlation(maps(), maps(), (8, 8), cells=4)
    with pytest.raises(ValueError, match="not finite"):
        rank_correlation(maps() * torch.nan, maps(), (16, 16))

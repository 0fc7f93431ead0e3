import pytest
import torch
from torch.nn import functional as F

from pellucid.metrics.part_box import (
    _peaks_of_all,
    _weights,
    landmarks_in_box,
    upsampled_peaks,
)
from tests.metrics.boxes import SIZE, bicubic, cubic_peak, images


@pytest.mark.parametrize("size", [SIZE, (7, 9), (3, 4)])
def test_peaks_against_loops(size) -> None:
    maps = torch.randn(6, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    found = upsampled_peaks(maps, size)
    expected = [[cubic_peak(grid, *size) for grid in units] for units in maps.tolist()]
    assert found.tolist() == [[list(place) for place in line] for line in expected]


@pytest.mark.parametrize("size", [SIZE, (3, 4), (4, 5), (64, 7)])
def test_loops_and_products_interpolate_as_torch_does(size) -> None:
    maps = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(maps, size=size, mode="bicubic")[0]
    down, across = _weights(4, size[0]), _weights(5, size[1])
    torch.testing.assert_close(down @ maps[0] @ across.T, large)
    torch.testing.assert_close(torch.tensor(bicubic(maps[0, 1].tolist(), *size)), large[1])


@pytest.mark.parametrize("kind", ["rough", "smooth", "rare", "signed"])
@pytest.mark.parametrize("cells", [(4, 5), (14, 14)])
def test_rows_that_are_left_out_hold_no_peak(kind, cells) -> None:
    """Against all rows of the library's own interpolation."""
    maps = torch.rand(8, 20, *cells, generator=torch.Generator().manual_seed(3))
    if kind == "smooth":
        maps = F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    elif kind == "rare":
        maps = (maps - 0.97).relu()
    elif kind == "signed":
        maps = -maps.square() - 0.1
    assert (maps.amax((2, 3)) > maps.amin((2, 3))).any()
    size = (64, 90)
    slack = 1e-5 * maps.abs().amax((2, 3)).flatten()
    expected = _peaks_of_all(maps.flatten(0, 1), slack, size).view(8, 20, 2)
    assert torch.equal(upsampled_peaks(maps, size), expected)


def test_a_peak_lies_between_equal_cells() -> None:
    maps = torch.zeros(1, 1, 3, 6)
    maps[0, 0, 1, 2:4] = 1.0
    # Cells of 11 x 11 pixels: the middle of the two is the edge at x = 32.5, so of the pixels 32
    # and 33 the first; the middle of the row is y = 16.
    assert upsampled_peaks(maps, (33, 66)).tolist() == [[[32.0, 16.0]]]


def test_grid_places_the_peak_as_the_cells() -> None:
    maps = images()["maps"]
    tiles = upsampled_peaks(maps, (40, 50))
    # Cells of 10 pixels whose centres are at 4.5, 14.5 ...
    torch.testing.assert_close(upsampled_peaks(maps, (40, 50), (10, 4.5)), tiles)
    moved = upsampled_peaks(maps, (40, 50), (16, 0.0))
    torch.testing.assert_close(moved, (tiles - 4.5) * 1.6)


def test_flat_maps_peak_at_the_first_pixel_whatever_the_rounding() -> None:
    maps = torch.full((3, 2, 4, 5), 0.1)
    maps[2] = -7.3
    assert upsampled_peaks(maps, (23, 31)).unique().tolist() == [0.0]


def test_many_maps_at_once_are_as_each_alone() -> None:
    maps = torch.rand(40, 8, 4, 5, generator=torch.Generator().manual_seed(1))
    together = upsampled_peaks(maps, (64, 64))
    for image in range(0, 40, 7):
        assert torch.equal(upsampled_peaks(maps[image : image + 1], (64, 64))[0], together[image])
    assert upsampled_peaks(maps[:0], (64, 64)).shape == (0, 8, 2)


def test_mixed_precision_does_not_move_peaks() -> None:
    maps = 5 + 0.01 * torch.rand(20, 4, 4, 5, generator=torch.Generator().manual_seed(2))
    expected = upsampled_peaks(maps, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upsampled_peaks(maps, SIZE), expected)


def test_the_edges_of_a_box_belong_to_it() -> None:
    parts = torch.tensor([[[110.0, 100.0], [110.1, 100.0], [100.0, 95.0], [100.0, 94.9]]])
    position = torch.tensor([[[100.0, 100.0]]])
    visible = torch.ones(1, 4, dtype=torch.bool)
    # 20 pixels wide and 10 high.
    inside = landmarks_in_box(position, parts, visible, (100, 200), 0.1)
    assert inside.tolist() == [[[True, False, True, False]]]
    visible[0, 0] = False
    parts[0, 0] = torch.nan
    assert not landmarks_in_box(position, parts, visible, (100, 200), 0.1)[0, 0, 0]

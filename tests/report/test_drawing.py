"""Pictures of maps and places, pixel by pixel."""

import numpy as np
import pytest
import torch

from pellucid.logging import figure_picture
from pellucid.metrics.plots import position_spread
from pellucid.report.drawing import (
    as_picture,
    contact_sheet,
    draw_position,
    outline,
    overlay,
    resize,
    upsample,
)

GREY = np.full((20, 20, 3), 120, np.uint8)


def peak_at(row: int, column: int, size: int = 5) -> torch.Tensor:
    activation = torch.zeros(size, size)
    activation[row, column] = 2.0
    return activation


def test_overlay_leaves_silent_regions_alone_and_colours_the_peak() -> None:
    picture = overlay(GREY, peak_at(0, 4))
    assert picture.shape == (20, 20, 3)
    assert picture.dtype == np.uint8
    assert (picture[10:, :10] == GREY[10:, :10]).all()
    red, _, blue = picture[1, 18].astype(int)
    assert red > 180
    assert blue < 100


def test_overlay_gets_stronger_with_the_activation() -> None:
    change = [
        np.abs(overlay(GREY, value * torch.ones(2, 2), largest=4.0).astype(int) - 120).max()
        for value in (0.0, 1.0, 2.0, 4.0)
    ]
    assert change[0] == 0
    assert change == sorted(change)
    assert len(set(change)) == 4


def test_the_object_stays_visible_below_the_peak() -> None:
    image = GREY.copy()
    image[::2] = 200
    picture = overlay(image, torch.ones(3, 3)).astype(int)
    assert np.abs(picture[10] - picture[11]).max() >= 25


@pytest.mark.parametrize("activation", [torch.zeros(3, 3), -torch.ones(3, 3)])
def test_overlay_of_nothing_is_the_image(activation: torch.Tensor) -> None:
    assert (overlay(GREY, activation) == GREY).all()


def test_overlay_checks_its_opacity() -> None:
    with pytest.raises(ValueError, match=r"opacity must be in \[0, 1\], got 1.5"):
        overlay(GREY, torch.ones(2, 2), opacity=1.5)


def test_upsample_is_bilinear_over_the_whole_image() -> None:
    large = upsample(torch.tensor([[0.0, 1.0]]), (1, 4))
    np.testing.assert_allclose(large, [[0.0, 0.25, 0.75, 1.0]])


def test_outline_surrounds_the_region_above_the_threshold() -> None:
    activation = torch.zeros(20, 20)
    activation[5:12, 3:9] = 1.0
    picture = outline(GREY, activation, 0.5, colour=(255, 0, 0))
    drawn = (picture == (255, 0, 0)).all(-1)
    expected = np.zeros((20, 20), bool)
    expected[5:12, 3:9] = True
    expected[6:11, 4:8] = False
    assert (drawn == expected).all()
    assert (picture[~drawn] == 120).all()


def test_outline_has_no_line_at_the_edge_of_the_image() -> None:
    assert (outline(GREY, torch.ones(4, 4), 0.5) == GREY).all()


def test_outline_does_not_change_its_image() -> None:
    image = GREY.copy()
    outline(image, peak_at(2, 2), 0.5, width=2)
    assert (image == GREY).all()


def test_outline_checks_its_width() -> None:
    with pytest.raises(ValueError, match="width must be at least 1 pixel, got 0"):
        outline(GREY, peak_at(2, 2), 0.5, width=0)


def test_contact_sheet_sets_pictures_row_by_row() -> None:
    pictures = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(pictures, columns=2, gap=1, background=(0, 0, 0))
    assert sheet.shape == (9, 13, 3)
    assert (sheet[:4, :6] == 10).all()
    assert (sheet[:4, 7:] == 20).all()
    assert (sheet[5:, :6] == 30).all()
    assert (sheet[5:, 7:] == 0).all()
    assert (sheet[4] == 0).all()


def test_contact_sheet_centres_smaller_pictures() -> None:
    sheet = contact_sheet([np.full((2, 2, 3), 9, np.uint8), np.full((4, 4, 3), 7, np.uint8)], gap=0)
    assert sheet.shape == (4, 8, 3)
    assert (sheet[1:3, 1:3] == 9).all()
    assert (sheet[0, :4] == 255).all()


@pytest.mark.parametrize("options", [{"columns": 0}, {"gap": -1}])
def test_contact_sheet_checks_its_options(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 picture, 1 column"):
        contact_sheet([GREY], **options)  # type: ignore[arg-type]


def test_contact_sheet_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="got 0 pictures"):
        contact_sheet([])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), torch.zeros(3, 4, 5).byte()],
)
def test_refuses_what_is_no_picture(image: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(height, width, 3\) of uint8"):
        as_picture(image)  # type: ignore[arg-type]


def test_resize_keeps_the_shape() -> None:
    assert resize(np.zeros((30, 60, 3), np.uint8), 20).shape == (10, 20, 3)


def orange(picture: np.ndarray) -> np.ndarray:
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return (red > 200) & (blue < 120) & (red - green > 40)


def test_draw_position_marks_the_mean_and_the_spread() -> None:
    picture = draw_position(
        GREY, torch.tensor([4.5, 9.5]), torch.tensor([[4.0, 0.0], [0.0, 0.25]]), size=200
    )
    assert picture.shape == (200, 200, 3)
    rows, columns = orange(picture).nonzero()
    # One pixel of the image is ten of the picture; two deviations are 4 pixels of the image
    # across and 1 down.
    assert columns.mean() == pytest.approx(50, abs=2)
    assert rows.mean() == pytest.approx(100, abs=2)
    assert (columns.min(), columns.max()) == (pytest.approx(10, abs=3), pytest.approx(90, abs=3))
    assert (rows.min(), rows.max()) == (pytest.approx(90, abs=3), pytest.approx(110, abs=3))


def test_draw_position_turns_the_ellipse_with_the_covariance() -> None:
    covariance = torch.tensor([[9.0, 8.5], [8.5, 9.0]])
    mask = orange(draw_position(GREY, torch.tensor([9.5, 9.5]), covariance, size=200))
    rows, columns = mask.nonzero()
    assert np.corrcoef(rows, columns)[0, 1] > 0.8


def test_draw_position_of_a_silent_unit_is_the_pale_image() -> None:
    nan = torch.full((2, 2), torch.nan)
    assert not orange(draw_position(GREY, nan[0], nan, nan)).any()


def test_draw_position_draws_single_points() -> None:
    nan = torch.full((2, 2), torch.nan)
    points = torch.tensor([[4.5, 4.5], [torch.nan, torch.nan]])
    picture = draw_position(GREY, nan[0], nan, points, size=200).mean(-1)
    rows, columns = (picture < picture[150, 150] - 10).nonzero()
    assert len(rows)
    assert columns.mean() == pytest.approx(49.5, abs=0.6)
    assert rows.mean() == pytest.approx(49.5, abs=0.6)


def test_the_metric_draws_the_same_picture() -> None:
    """Where it is given the same positions over the same image."""
    positions = torch.tensor([[2.0, 3.0], [9.0, 4.0], [5.0, 12.0], [5.0, 12.0]])
    image = torch.from_numpy(GREY).permute(2, 0, 1)
    figure, axes = position_spread((positions + 0.5) / 20, image)
    axes.get_legend().remove()
    figure.set_layout_engine("none")
    figure.set_size_inches(400 / 72, 400 / 72)
    figure.set_dpi(72)
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    ours = draw_position(GREY, positions.mean(0), positions.T.cov(), positions, size=400)
    theirs = orange(figure_picture(figure)), orange(ours)
    for axis in (0, 1):
        ends = [(m.nonzero()[axis].min(), m.nonzero()[axis].max()) for m in theirs]
        # The metric's lines are wider.
        assert np.abs(np.subtract(*ends)).max() <= 3

"""The drawn dSprites against the formulas, pixel by pixel, and against what symmetry demands."""

import math

import pytest
import torch

from pellucid.datamodules.dsprites_rendering import (
    COUNT,
    FACTOR_NAMES,
    FACTOR_SIZES,
    SHAPES,
    factors_of,
    index_of,
    render,
    unpack,
)

SQUARE, ELLIPSE, HEART = range(3)


def images(*factors):
    """(N, 64, 64) bool."""
    return unpack(render(torch.tensor(factors)))[:, 0] > 0


def some_factors(count, seed=0, **fixed):
    generator = torch.Generator().manual_seed(seed)
    columns = [
        torch.full((count,), fixed[name])
        if name in fixed
        else torch.randint(size, (count,), generator=generator)
        for name, size in zip(FACTOR_NAMES, FACTOR_SIZES, strict=True)
    ]
    return torch.stack(columns, dim=1)


def inside_heart(u, v):
    """Whether a ray to the right crosses the curve an odd number of times, edge by edge."""
    odd, before = False, None
    for i in range(2001):
        t = 2 * math.pi * i / 2000
        x = 9.6 * math.sin(t) ** 3
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        y = -(19.2 / 29) * up - 1.44
        if before is not None:
            x0, y0 = before
            odd ^= (y0 > v) != (y > v) and u < x0 + (v - y0) / (y - y0) * (x - x0)
        before = x, y
    return odd


def inside(shape, scale, orientation, x, y, row, column):
    """One pixel by the published formulas."""
    s, a = 0.5 + 0.1 * scale, 2 * math.pi * orientation / 39
    dx, dy = column + 0.5 - (16 + 32 * x / 31), row + 0.5 - (16 + 32 * y / 31)
    u = (math.cos(a) * dx - math.sin(a) * dy) / s
    v = (math.sin(a) * dx + math.cos(a) * dy) / s
    if shape == SQUARE:
        return abs(u) <= 9.6 and abs(v) <= 9.6
    if shape == ELLIPSE:
        return (u / 12.76) ** 2 + (v / 7.22) ** 2 <= 1
    return u**2 + v**2 < 15**2 and inside_heart(u, v)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE])
def test_each_pixel_is_as_the_formulas_say(shape):
    factors = some_factors(40, seed=shape, shape=shape)
    factors[0], factors[1] = torch.tensor([shape, 0, 0, 0, 0]), torch.tensor([shape, 5, 39, 31, 31])
    for drawn, own in zip(images(*factors.tolist()), factors.tolist(), strict=True):
        expected = [[inside(*own, row, column) for column in range(64)] for row in range(64)]
        assert torch.equal(drawn, torch.tensor(expected)), own


def test_each_pixel_near_the_heart_is_as_the_formulas_say():
    factors = some_factors(4, shape=HEART)
    factors[0] = torch.tensor([HEART, 5, 0, 31, 0])
    for drawn, own in zip(images(*factors.tolist()), factors.tolist(), strict=True):
        found = [[inside(*own, row, column) for column in range(64)] for row in range(64)]
        expected = torch.tensor(found)
        union = int((drawn | expected).sum())
        # The curve of the test has more corners: a pixel on the outline may differ.
        assert int((drawn & expected).sum()) >= union - 1, own
        assert 0 < union < 400


@pytest.mark.parametrize(("shape", "area"), [(0, 19.2**2), (1, math.pi * 12.76 * 7.22), (2, None)])
def test_areas_follow_the_scale(shape, area):
    if area is None:  # Of the heart's curve, by the shoelace formula.
        points = []
        for i in range(4000):
            t = math.pi * i / 2000
            up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((9.6 * math.sin(t) ** 3, -19.2 / 29 * up))
        pairs = zip(points, points[1:] + points[:1], strict=True)
        area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs)) / 2
    for scale in range(6):
        factors = some_factors(400, shape=shape, scale=scale)
        mean = float(images(*factors.tolist()).sum((1, 2)).float().mean())
        assert mean == pytest.approx(area * (0.5 + 0.1 * scale) ** 2, rel=0.01)


def test_the_first_and_the_last_angle_are_one():
    factors = some_factors(60, orientation=0)
    turned = factors.clone()
    turned[:, 2] = 39
    assert torch.equal(render(factors), render(turned))
    turned[:, 2] = 20
    assert not torch.equal(render(factors), render(turned))


def test_squares_repeat_every_90_degrees_and_ellipses_every_180():
    for shape, turns in ((SQUARE, (1, 2, 3)), (ELLIPSE, (2,))):
        factors = some_factors(50, shape=shape)
        drawn = images(*factors.tolist())
        for quarter in turns:
            # Turned as a whole about its middle, the image has the sprite at another place.
            moved = factors.clone()
            for _ in range(quarter):  # Counter-clockwise: what was right is on top.
                moved = torch.stack(
                    [*moved.T[:3], moved[:, 4], 31 - moved[:, 3]],
                    dim=1,
                )
            turned = torch.rot90(drawn, quarter, dims=(1, 2))
            assert torch.equal(turned, images(*moved.tolist())), (shape, quarter)
    heart = some_factors(1, shape=HEART, x=15, y=15)
    turned = torch.rot90(images(*heart.tolist()), 2, dims=(1, 2))
    assert not torch.equal(turned, images([HEART, *heart[0, 1:3].tolist(), 16, 16]))


def test_a_mirror_turns_shapes_the_other_way():
    factors = some_factors(100)
    mirrored = factors.clone()
    mirrored[:, 2], mirrored[:, 3] = 39 - factors[:, 2], 31 - factors[:, 3]
    # To the pixel, but for those whose centres lie on the outline within rounding.
    assert torch.equal(images(*factors.tolist()).flip(2), images(*mirrored.tolist()))


def test_the_heart_points_down_and_angles_turn_counter_clockwise():
    upright, ellipse = images([HEART, 5, 0, 15, 15], [ELLIPSE, 5, 5, 15, 15])
    widths = upright.sum(1)
    widths = widths[widths > 0]
    assert widths.argmax() < len(widths) / 2
    assert widths[-1] <= 2 < widths[0]  # The tip; two lobes.
    # The long axis, from left to right at first, goes up on the right after 46 degrees.
    row, column = ellipse.nonzero().float().T
    assert float(((row - row.mean()) * (column - column.mean())).mean()) < -5


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE])
def test_the_centre_of_mass_is_where_the_factors_say(shape):
    factors = some_factors(300, shape=shape)
    drawn = images(*factors.tolist()).double()
    places = torch.arange(64) + 0.5
    total = drawn.sum((1, 2))
    x = (drawn.sum(1) * places).sum(1) / total
    y = (drawn.sum(2) * places).sum(1) / total
    wanted = 16 + 32 * factors[:, 3:].double() / 31
    torch.testing.assert_close(
        torch.stack([x, y], 1), wanted, atol=0.4, rtol=0
    )  # The next is 1.03 away.
    assert float((torch.stack([x, y], 1) - wanted).mean().abs()) < 0.01


def test_numbers_and_factors():
    every = factors_of(torch.arange(COUNT))
    assert COUNT == 737_280
    assert torch.equal(index_of(every), torch.arange(COUNT))
    # Row by row as nested loops: the last factor runs fastest.
    assert every[[0, 1, 32, 1024, 40_960, 245_760, -1]].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [2, 5, 39, 31, 31],
    ]
    assert every.amax(0).tolist() == [size - 1 for size in FACTOR_SIZES]
    assert len(SHAPES) == FACTOR_SIZES[0]
    assert factors_of(torch.arange(0)).shape == (0, 5)


def test_none_are_none():
    assert unpack(render(torch.zeros(0, 5, dtype=torch.int64))).shape == (0, 1, 64, 64)


def test_bytes_hold_eight_pixels_the_leftmost_lowest():
    packed = torch.zeros(1, 64, 8, dtype=torch.uint8)
    packed[0, 3, 2] = 0b10000001
    image = unpack(packed)
    assert image.dtype == torch.float32
    assert image.nonzero().tolist() == [[0, 0, 3, 16], [0, 0, 3, 23]]


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ([[0, 0, 0, 0, 0], [0, 0, 40, 0, 0]], "orientation from 0 to 39, got 40 in row 1"),
        ([[-1, 0, 0, 0, 0]], "shape from 0 to 2, got -1 in row 0"),
        ([[0, 0, 0, 0]], r"must be \(N, 5\) int64, .* got \(1, 4\) of type int64"),
        ([[0.0, 0, 0, 0, 0]], r"got \(1, 5\) of type float32"),
    ],
)
def test_factors_that_no_picture_has_are_named(factors, said):
    with pytest.raises(ValueError, match=said):
        index_of(torch.tensor(factors))


@pytest.mark.parametrize("index", [-1, COUNT])
def test_numbers_that_no_picture_has_are_named(index):
    with pytest.raises(ValueError, match=f"from 0 to 737279, got 0 to {index}|got {index} to 0"):
        factors_of(torch.tensor([0, index]))

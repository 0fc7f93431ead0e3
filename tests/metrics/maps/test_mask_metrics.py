"""Metrics of a map against a mask: mass, rank, pointing game, IoU."""

import math
import random

import pytest
import torch
from torch.nn import functional as F

from pellucid.metrics.maps import (
    BestIoU,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    best_iou,
    pointing_game,
    relevance_mass,
    relevance_rank,
)

FUNCTIONS = {
    "mass": relevance_mass,
    "rank": relevance_rank,
    "pointing": pointing_game,
    "iou": best_iou,
}
CLASSES = {
    "mass": RelevanceMass,
    "rank": RelevanceRank,
    "pointing": PointingGame,
    "iou": BestIoU,
}


def pixels(heat, mask):
    pairs = zip(heat.flatten().tolist(), mask.flatten().tolist(), strict=True)
    return [(max(0.0, value), inside) for value, inside in pairs]


def loop_mass(heat, mask):
    found = pixels(heat, mask)
    return sum(r for r, inside in found if inside) / sum(r for r, _ in found)


def loop_rank(heat, mask):
    found = sorted(pixels(heat, mask), reverse=True, key=lambda pixel: pixel[0])
    size = sum(inside for _, inside in found)
    least = found[size - 1][0]
    sure = [inside for r, inside in found if r > least]
    tied = [inside for r, inside in found if r == least]
    return (sum(sure) + (size - len(sure)) * sum(tied) / len(tied)) / size


def loop_pointing(heat, mask, tolerance=0):
    found, columns = pixels(heat, mask), mask.shape[1]
    best = max(r for r, _ in found)
    peaks = [divmod(place, columns) for place, (r, _) in enumerate(found) if r >= best]
    inside = mask.nonzero().tolist()
    near = [any(math.hypot(y - j, x - i) <= tolerance for j, i in inside) for y, x in peaks]
    return sum(near) / len(near)


def loop_iou(heat, mask):
    found = pixels(heat, mask)
    best = 0.0
    for level in {r for r, _ in found}:
        taken = [inside for r, inside in found if r >= level]
        hits = sum(taken)
        best = max(best, hits / (len(taken) + sum(inside for _, inside in found) - hits))
    return best


LOOPS = {"mass": loop_mass, "rank": loop_rank, "pointing": loop_pointing, "iou": loop_iou}


def cases(count=100, size=(9, 11)):
    """Signed maps, half of them of few values so that pixels are equal, and masks of any size."""
    torch.manual_seed(0)
    maps = torch.randn(count, *size)
    maps[::2] = (maps[::2] * 1.5).round()
    share = torch.linspace(0.05, 1.0, count)[:, None, None]
    mask = torch.rand(count, *size) < share
    mask[:, 3, 4] = True
    return maps, mask


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_hundred_cases_agree_with_a_loop_over_pixels(name):
    maps, mask = cases()
    found = FUNCTIONS[name](maps, mask)
    wanted = [LOOPS[name](one, other) for one, other in zip(maps, mask, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tolerance", [1, 3])
def test_the_peak_may_miss_by_the_tolerance(tolerance):
    maps, mask = cases(40)
    mask &= torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.15
    mask[:, 3, 4] = True
    found = pointing_game(maps, mask, tolerance)
    wanted = [loop_pointing(a, b, tolerance) for a, b in zip(maps, mask, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-6, rtol=0)
    assert float(found.mean()) > float(pointing_game(maps, mask).mean())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_maps_are_cut_off_at_zero_and_upsampled_bilinearly(name):
    # Without equal values, whose order after the upsampling is a matter of rounding.
    maps = torch.randn(20, 4, 5, generator=torch.Generator().manual_seed(0))
    _, mask = cases(20, (12, 15))
    large = F.interpolate(
        maps.clamp(min=0)[:, None], (12, 15), mode="bilinear", align_corners=False
    )[:, 0]
    torch.testing.assert_close(FUNCTIONS[name](maps, mask), FUNCTIONS[name](large, mask))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [1e-30, 1e36])
def test_the_scale_of_a_map_does_not_matter(name, scale):
    maps, mask = cases(10)
    torch.testing.assert_close(
        FUNCTIONS[name](maps * scale, mask), FUNCTIONS[name](maps, mask), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_known_answers(name):
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = True
    inside = mask.float()
    assert FUNCTIONS[name](inside, mask).item() == pytest.approx(1.0)
    # A map without any order has what chance gives: the mask's share of the image.
    assert FUNCTIONS[name](torch.ones(1, 4, 4), mask).item() == pytest.approx(0.25)
    outside = FUNCTIONS[name](1 - inside, mask).item()
    assert outside == pytest.approx(0.25 if name == "iou" else 0.0)


def test_a_map_of_zeros_is_chance_or_not_defined_and_never_a_silent_quotient():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 0] = True
    for maps in (torch.zeros(1, 4, 4), -torch.rand(1, 4, 4)):
        assert relevance_mass(maps, mask).isnan().all()
        for function in (relevance_rank, pointing_game, best_iou):
            assert function(maps, mask).item() == 0.25


@pytest.mark.parametrize("name", FUNCTIONS)
def test_images_with_an_empty_mask_are_left_out_and_counted(name):
    maps, mask = cases(6)
    mask[2] = False
    values = FUNCTIONS[name](maps, mask)
    assert values.isnan().tolist() == [False, False, True, False, False, False]
    metric = CLASSES[name]()
    metric.update(maps, mask)
    assert float(metric.compute()) == pytest.approx(float(values.nanmean()))
    assert (int(metric.judged), int(metric.left_out)) == (5, 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_inputs_say_what_is_wrong(name):
    function = FUNCTIONS[name]
    maps, mask = cases(3)
    bad = maps.clone()
    bad[1, 2, 2] = torch.nan
    with pytest.raises(ValueError, match=r"maps\[1\] has a value that is not finite"):
        function(bad, mask)
    bad[1, 2, 2] = -torch.inf
    with pytest.raises(ValueError, match=r"maps\[1\] has a value that is not finite"):
        function(bad, mask)
    with pytest.raises(ValueError, match="mask has 2 images, maps have 3"):
        function(maps, mask[:2])
    with pytest.raises(ValueError, match=r"mask is 4 x 4, maps are 9 x 11.*size of the image"):
        function(maps, mask[:, :4, :4])
    with pytest.raises(ValueError, match=r"mask must be bool.*compare a float mask"):
        function(maps, mask.float())
    with pytest.raises(ValueError, match=r"maps must be floating point of shape \(B, h, w\)"):
        function(maps[:, None], mask)
    with pytest.raises(ValueError, match=r"of torch\.int64"):
        function(maps.long(), mask)


def test_a_tolerance_below_zero_is_refused():
    for make in (lambda: PointingGame(-1), lambda: pointing_game(*cases(1), tolerance=-1)):
        with pytest.raises(ValueError, match="tolerance must be at least 0 pixels, got -1"):
            make()


@pytest.mark.parametrize("name", CLASSES)
def test_batches_and_their_order_do_not_matter(name):
    maps, mask = cases(30)
    whole, parts = CLASSES[name](), CLASSES[name]()
    whole.update(maps, mask)
    pieces = list(torch.arange(30).split(7))
    random.Random(0).shuffle(pieces)
    for rows in [torch.arange(0), *pieces]:
        parts.update(maps[rows], mask[rows])
    torch.testing.assert_close(parts.compute(), whole.compute())
    assert CLASSES[name]().compute().isnan()


def means_of_process() -> dict[str, float]:
    rank = torch.distributed.get_rank()
    maps, mask = cases(20)
    mask[4] = False
    found = {}
    for name, make in CLASSES.items():
        metric = make()
        metric.update(maps[rank::2], mask[rank::2])
        found[name] = float(metric.compute())
    return found


@pytest.mark.ddp
def test_two_processes_find_what_one_finds(two_processes):
    maps, mask = cases(20)
    mask[4] = False
    wanted = {name: float(f(maps, mask).nanmean()) for name, f in FUNCTIONS.items()}
    for found in two_processes.run(means_of_process):
        assert found == pytest.approx(wanted, abs=1e-6)


def test_inference_mode_and_half_precision():
    maps, mask = cases(8)
    with torch.inference_mode():
        metric = RelevanceMass()
        metric.update(maps.half(), mask)
        metric.reset()
    metric.update(maps.bfloat16(), mask)
    assert float(metric.compute()) == pytest.approx(
        float(relevance_mass(maps, mask).mean()), abs=5e-3
    )

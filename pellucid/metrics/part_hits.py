"""In how many images a unit hits a part, for every threshold that it might turn out to have."""

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.bright_values import tiles_of, values_above

# Candidates for a threshold are the floats whose lowest 17 of 23 bits of mantissa are zero:
# (1 + m / 64) 2^e. The greatest one below x > 0 is then a matter of integer arithmetic on x's bits.
_BITS = 6
_SHIFT = 23 - _BITS
_OCTAVES = 24
_LEAST = (127 - _OCTAVES) << _BITS
CANDIDATES = 2 * _OCTAVES << _BITS
"""Number of candidates, from 2^-24 to just below 2^24, numbered from the highest."""
GREATEST = 2.0**_OCTAVES


def levels_of(values: Tensor) -> Tensor:
    """How many candidates are not below each value, from 0 to ``CANDIDATES``, as int32.

    Args:
        values: Contiguous float32 of any shape, at least 0.
    """
    # Strictly below: one is taken off the bits, so that a candidate is not below itself.
    passed = (values.view(torch.int32) - 1) >> _SHIFT
    return passed.sub_(_LEAST + CANDIDATES - 1).neg_().clamp_(0, CANDIDATES)


def candidate(number: Tensor) -> Tensor:
    """The value of each candidate, float32, from its number; they fall from number 0 on."""
    return ((_LEAST + CANDIDATES - 1 - number).int() << _SHIFT).view(torch.float32)


def histogram(levels: Tensor, size: int) -> Tensor:
    """(N, size) int64 counts of each level in (N, M) levels, all below ``size``."""
    first = torch.arange(0, len(levels) * size, size, dtype=torch.int32, device=levels.device)
    keys = (levels + first.unsqueeze(1)).flatten().long()
    return torch.bincount(keys, minlength=len(levels) * size).view(-1, size)


def _histogram_inside(levels: Tensor, masks: Tensor, size: int) -> Tensor:
    """(B, P, U, size) counts of (B, U, M) levels inside each of (B, P, M) masks."""
    (batch, units), parts = levels.shape[:2], masks.shape[1]
    image, part, pixel = masks.nonzero(as_tuple=True)
    row = rearrange((image * parts + part) * units, "n -> n 1")
    row = row + torch.arange(units, device=levels.device)
    keys = row * size + levels[image, :, pixel]
    counts = torch.bincount(keys.flatten(), minlength=batch * parts * units * size)
    return counts.view(batch, parts, units, size)


def add_all_hits(changes: Tensor, maps: Tensor, masks: Tensor, iou_threshold: float) -> None:
    """Count for each candidate threshold the images in which a unit hits a part.

    Args:
        changes: (U, P, CANDIDATES) int32, added to in place: how many images more than at the
            candidate before are hit at each.
        maps: (B, U, h, w) float32.
        masks: (B, P, H, W) bool, empty where the part is not shown.
        iou_threshold: Least IoU.
    """
    large = F.interpolate(maps, size=masks.shape[-2:], mode="bilinear")
    levels, masks = levels_of(large.flatten(2)), masks.flatten(2)
    # Above the greatest activation nothing fires, below the least one all is as at it: often
    # half of the candidates, or more.
    first = int(levels.amin())
    last = int(levels.masked_fill(levels == CANDIDATES, -1).amax())
    if last < 0:
        return
    size = last - first + 2
    levels = levels.sub_(first).clamp_(max=size - 1)
    everywhere = rearrange(histogram(levels.flatten(0, 1), size), "(b u) c -> b 1 u c", b=len(maps))
    area = everywhere[..., :-1].float().cumsum(-1)
    both = _histogram_inside(levels, masks, size)[..., :-1].float().cumsum(-1)
    either = area + reduce(masks.float(), "b p m -> b p 1 1", "sum") - both
    # 0 / 0, where a part is not shown, is NaN and no hit.
    hit = both.div_(either) > iou_threshold
    new = rearrange(hit.sum(0, dtype=torch.int32), "p u c -> u p c")
    changes[..., first : last + 1] += new.diff(dim=-1, prepend=torch.zeros_like(new[..., :1]))


def add_hits_above(
    changes: Tensor, maps: Tensor, masks: Tensor, iou_threshold: float, lowest: Tensor
) -> None:
    """Count as :func:`add_all_hits` does, for the candidates that still matter alone.

    Few activations are above the others, so that it pays to sort them.

    Args:
        changes: (U, P, CANDIDATES) int32, added to in place; right up to candidate ``lowest``.
        maps: (B, U, h, w) float32.
        masks: (B, P, H, W) bool, empty where the part is not shown.
        iou_threshold: Least IoU.
        lowest: (U,) int64, number of the lowest candidate that can still be next to a threshold;
            ``CANDIDATES``: any can.
    """
    units, parts = changes.shape[:2]
    size = masks.shape[-2:]
    floor = candidate(lowest.clamp(max=CANDIDATES - 1)).masked_fill(lowest == CANDIDATES, 0.0)
    found = list(values_above(maps, tiles_of(maps), floor, size))
    if not found:
        return
    unit, pixel, value = (torch.cat(some) for some in zip(*found, strict=True))
    if not len(value):  # a plane's peak may lie between the pixels of the masks
        return
    pixels = size[0] * size[1]
    plane = pixel // pixels * units + unit
    # By plane, and in it from the highest activation down.
    key, order = (plane * (CANDIDATES + 1) + levels_of(value)).sort()
    pixel, plane = pixel[order], key // (CANDIDATES + 1)
    # What came in the planes before is taken off the running sums.
    before = torch.searchsorted(plane, plane)
    one = torch.arange(1, len(key) + 1, device=key.device)
    flat = rearrange(masks, "b p h w -> p (b h w)")
    inside = flat[:, pixel].cumsum(1)
    both = (inside - F.pad(inside, (1, 0))[:, before]).float()
    mask_area = reduce(masks.float(), "b p h w -> p b", "sum")[:, plane // units]
    either = (one - before).float() + mask_area - both
    # Where several pixels have one level, the last of them has it all.
    last = torch.cat((key[1:] != key[:-1], key.new_ones(1, dtype=torch.bool)))
    hit = (both / either > iou_threshold)[:, last].int()
    plane, level = plane[last], key[last] % (CANDIDATES + 1)
    earlier = F.pad(hit, (1, 0))[:, :-1]
    start = torch.cat((key.new_ones(1, dtype=torch.bool), plane[1:] != plane[:-1]))
    change = hit - earlier.masked_fill(start, 0)
    # Below the least candidate there is none to fire at.
    part = repeat(torch.arange(parts, device=key.device), "p -> p n", n=len(level))
    place = ((plane % units) * parts + part) * CANDIDATES + level
    there = (level < CANDIDATES).expand_as(change)
    changes.view(-1).scatter_add_(0, place[there], change[there])

"""Whether the image patches that a unit responds to most show one and the same part.

Source: Nauta et al., *PIP-Net: Patch-Based Intuitive Prototypes for Interpretable Image
Classification*, CVPR 2023, section 5, with the released code.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics import plots
from pellucid.metrics.location_instability import peak_positions
from pellucid.metrics.part_box import check_landmarks, check_share, landmarks_in_box
from pellucid.metrics.part_metric import PartMetric, check_maps, check_shape
from pellucid.metrics.strongest import KeepsStrongest, StrongestImages, number_images
from pellucid.part_names import merge_sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP_K = 10
PATCH = 32 / 224

# What an image says of a part and a unit.
_HIDDEN, _OUTSIDE, _INSIDE = 0, 1, 2


def part_purity(
    maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    top_k: int = TOP_K,
    patch: float = PATCH,
    groups: Sequence[int] | None = None,
    count_hidden: bool = False,
    index: Tensor | None = None,
    grid: tuple[float, float] | None = None,
) -> Tensor:
    r"""Part purity of a set of images, :math:`\mathrm{mean}_u \max_k s_{u,k}`.

    Unit :math:`u` has one patch in each of the ``top_k`` images on which it responds most: around
    its strongest position, moved inwards where it would reach beyond the image.
    :math:`s_{u,k}` is the share of the patches that contain the landmark of part :math:`k`, edges
    included, of those in whose image the part is visible. So the authors' code counts, and hence
    the published figures; ``count_hidden`` takes the share of all patches, so that a part seen
    once among the ten cannot make a unit pure. A unit whose patches' images show no part has
    purity 0.

    The paper leaves out prototypes that no class uses: give this only the maps of the others.

    Args:
        maps: (B, U, h, w) floating point, finite: the units' responses.
        parts: (B, P, 2) landmarks as (x, y) in pixels, the centre of the top left one at (0, 0).
        part_visible: (B, P) bool.
        image_size: Height and width of the images in pixels.
        top_k: Patches per unit.
        patch: Sides of a patch as a share of the image's sides (32 of 224 pixels in the paper).
        groups: P numbers from 0 on: landmarks of the same number are one part, which is visible
            where any of them is, and in a patch where any of the visible ones is (in the paper,
            those of the left and the right side). None: each is a part of its own.
        count_hidden: Whether a patch counts, as one without the part, where the part is hidden.
        index: (B,) int64 from 0 to 2**30 - 1, position in the split: decides between equal
            responses (the smaller first); images of the same index count once. None: all
            different, in the given order.
        grid: Stride and offset in pixels of the maps' cells, see
            :func:`~pellucid.metrics.location_instability.peak_positions`; None: cells that tile
            the image.

    Returns:
        Scalar from 0 to 1, higher is better. NaN if no unit's strongest images show a part.

    Raises:
        ValueError: If an option, a shape, the index, or an activation is wrong; names the unit.
    """
    _check_options(top_k, patch)
    check_landmarks(maps, parts, part_visible)
    groups = range(parts.shape[1]) if groups is None else groups
    if len(groups) != parts.shape[1]:
        raise ValueError(
            f"groups must hold a number for each of the {parts.shape[1]} parts, got {groups}"
        )
    number = number_images(index, len(maps), maps.device)
    seen = _observe(maps, parts, part_visible, image_size, number, patch, groups, grid)
    return _mean(_shares(seen.best(top_k), count_hidden))


def _check_options(top_k: int, patch: float) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}; usual is {TOP_K}")
    check_share("patch", patch, "32 / 224 = 0.14")


def _observe(
    maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    number: Tensor,
    patch: float,
    groups: Sequence[int],
    grid: tuple[float, float] | None,
) -> StrongestImages:
    """The responses of a batch, one row for each unit, with a value for each group of parts."""
    maps = check_maps(maps)
    check_landmarks(maps, parts, part_visible)
    peak, position = peak_positions(maps, image_size, grid)
    size = position.new_tensor(image_size[::-1])
    centre = position.clamp(patch * size / 2 - 0.5, size - patch * size / 2 - 0.5)
    inside = landmarks_in_box(centre, parts, part_visible, image_size, patch)
    seen = rearrange(part_visible, "b p -> b 1 p") * _OUTSIDE + inside * (_INSIDE - _OUTSIDE)
    members = ([i for i, g in enumerate(groups) if g == one] for one in sorted(set(groups)))
    found = [seen[..., landmarks].amax(-1) for landmarks in members]
    return StrongestImages(
        rearrange(peak, "b u -> u 1 b"),
        number.expand(maps.shape[1], 1, -1),
        rearrange(found, "g b u -> u 1 b g").float(),
    )


def _shares(seen: StrongestImages, count_hidden: bool) -> Tensor:
    """(U, G) share of the patches with each part; NaN where there is none to count."""
    real, values = seen.scores[:, 0] > -torch.inf, seen.values[:, 0]
    values = torch.where(real.unsqueeze(-1), values, _HIDDEN)
    inside = (values == _INSIDE).sum(1)
    counted = real.sum(1, keepdim=True) if count_hidden else (values != _HIDDEN).sum(1)
    return inside / counted


def _mean(shares: Tensor) -> Tensor:
    """Mean over units of the greatest share."""
    purity = shares.nan_to_num(0.0).amax(1).mean()
    return purity.masked_fill(shares.isnan().all(), torch.nan)


class PartPurity(PartMetric, KeepsStrongest):
    """Whether a unit's strongest patches show one part, as a share of them; higher is better.

    See :func:`part_purity` for the definition; :meth:`per_unit` has the shares :math:`s_{u,k}`,
    in which landmarks that are one part have the same figure. It holds ``(12 + 4 P) U top_k``
    bytes (0.4 MB for 512 units, 15 parts, 10 images), however many images there are. With
    ``index`` given, batch sizes, order, the number of processes and images repeated by a
    distributed sampler do not change the result. A metric that has seen no part is NaN.

    Args:
        num_units: Number of units, ``U``.
        part_names: Names of the ``P`` landmarks, in the order of the batch's ``parts``.
        top_k: Patches per unit, at least 1.
        patch: Sides of a patch as a share of the image's sides, above 0 and at most 1.
        merge: From a landmark's name to the name of the part that it is counted as; landmarks not
            in it are parts of their own. None: left and right are one, as in the paper (see
            :func:`~pellucid.part_names.merge_sides`).
        count_hidden: Whether a patch counts, as one without the part, where the part is hidden.

    Raises:
        ValueError: If an argument is out of range, or names no landmark.
    """

    higher_is_better = True

    def __init__(
        self,
        num_units: int,
        part_names: Sequence[str],
        top_k: int = TOP_K,
        patch: float = PATCH,
        merge: Mapping[str, str] | None = None,
        count_hidden: bool = False,
    ) -> None:
        super().__init__(num_units, part_names)
        _check_options(top_k, patch)
        merge = merge_sides(self.part_names) if merge is None else merge
        if unknown := sorted(set(merge) - set(self.part_names)):
            raise ValueError(
                f"merge must map names of {', '.join(self.part_names)}, got {unknown[0]!r}"
            )
        self.patch, self.count_hidden = patch, count_hidden
        merged = [merge.get(name, name) for name in self.part_names]
        self.merged_names = tuple(dict.fromkeys(merged))
        """Names of the parts after merging."""
        self._groups = [self.merged_names.index(name) for name in merged]
        self._add_strongest_states(num_units, 1, top_k, width=len(self.merged_names))
        self._by_merged: Tensor

    def update(
        self,
        maps: Tensor,
        parts: Tensor,
        part_visible: Tensor,
        image_size: tuple[int, int],
        index: Tensor | None = None,
        grid: tuple[float, float] | None = None,
    ) -> None:
        """Look at one batch; the arguments are those of :func:`part_purity`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        check_shape("parts", parts, (len(maps), len(self.part_names), 2))
        number = self._number_images(index, len(maps))
        self._keep(
            _observe(maps, parts, part_visible, image_size, number, self.patch, self._groups, grid)
        )

    def compute(self) -> Tensor:
        """The mean over units of the greatest share over parts."""
        self._by_merged = _shares(self._strongest(), self.count_hidden)
        self._per_unit = self._by_merged[:, self._groups]
        return _mean(self._by_merged)

    def plot(self) -> tuple["Figure", "Axes"]:
        """A dot for each unit in a row for each part, and the row's mean."""
        self.compute()
        return plots.unit_rows(
            self._by_merged.cpu(),
            self.merged_names,
            f"share of the unit's {self.top_k} strongest patches that contain the part",
            limit=1.0,
        )

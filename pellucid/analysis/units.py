"""What each unit of a model fires at, found in one pass over a data set.

The pass keeps, for every unit, only its strongest images, a few sums and its peaks on a limited
number of images, so that its memory does not grow with the number of images. Pixels are fetched
afterwards, and only of the images that some unit needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from tqdm.auto import tqdm

from pellucid.analysis.unit_examples import Examples, Responses, UnitExamples
from pellucid.analysis.unit_state import (
    BINS,
    BINS_PER_OCTAVE,
    LEAST_OCTAVE,
    UnitState,
)
from pellucid.batch import Batch
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.base import InterpretableModel
from pellucid.models.explanation import Explanation


@dataclass(frozen=True, kw_only=True)
class UnitSummary:
    """What the units of one layer fire at, on the CPU.

    ``U`` units, ``N`` images per unit, strongest first, ``T`` positions per unit, ``C`` classes.
    The peak of a unit on an image is the largest value of its map. Positions are (x, y) in pixels
    of the transformed image.
    """

    num_seen: int
    """Number of images that the pass saw."""
    indices: Tensor
    """(U, N) int64, positions of the strongest images in the data set."""
    labels: Tensor
    """(U, N) int64, their categories; -1 where the data has no labels."""
    peaks: Tensor
    """(U, N) float, the peaks on them, falling."""
    positions: Tensor
    """(U, T, 2) float, where the unit fires most, in the T images with its strongest peaks (the
    first N are those of ``indices``); NaN where the peak is not above zero."""
    maps: Tensor
    """(U, N, h, w) float, the activation maps."""
    images: dict[int, Tensor]
    """(H, W, 3) uint8 by position in the data set: the pixels of all images in ``indices``,
    ``representative`` and ``surprising``."""
    class_activation: Tensor
    """(U, C) float, mean of the map over positions and over the images of a class; NaN for a class
    without images. C is 0 where the data has no labels."""
    share_fired: Tensor
    """(U,) in [0, 1], share of images whose peak is above half of the mean of ``peaks``, found to
    2.2 % of that threshold."""
    position_mean: Tensor
    """(U, 2) float, mean of ``positions``; NaN for a unit that never fires."""
    position_covariance: Tensor
    """(U, 2, 2) float, sample covariance of ``positions`` in square pixels; NaN below two."""
    class_names: tuple[str, ...] = ()
    unit_names: tuple[str, ...] = ()
    representative: tuple[Examples, ...] = ()
    """Of each unit, found among up to 2000 images spread evenly over the data set."""
    surprising: tuple[Examples, ...] = ()
    """Likewise; empty where the data has no labels."""


def collect_units(
    model: InterpretableModel,
    loader: DataLoader[Batch],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] = (),
    num_images: int = 6,
    num_positions: int = 100,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> UnitSummary:
    """Find what each unit of a model fires at, or of the layer that ``unit_metrics`` names.

    Where a unit fires is summed up over the ``num_positions`` images with its strongest peaks, as
    the location instability does (Zhang 2018), not over all: on most images a filter's strongest
    position is noise. Memory is a function of the number of units and of the two limits only.

    Args:
        model: Its ``explain`` must give maps.
        loader: Images in the order of the data set, such as ``data.dataloader("test")``.
        mean: Mean of each channel that the images were normalised with.
        std: Standard deviation of each channel, likewise.
        class_names: Names of the classes, in the order of ``label``.
        num_images: Strongest images per unit to keep, with pixels and maps.
        num_positions: Strongest images per unit over which positions are summed up.
        device: Where the model runs; None: where it is.
        progress: Whether to show a bar, which appears after two seconds.

    Raises:
        ValueError: If a number is below 1, the loader shuffles or is empty, or the maps are
            missing or not finite.
    """
    for name, value in (("num_images", num_images), ("num_positions", num_positions)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    _check_order(loader)
    num_positions = max(num_images, num_positions)
    where = torch.device(device) if device is not None else model.device
    was_training = model.training
    model.to(where).eval()
    state: UnitState | None = None
    names: tuple[str, ...] = ()
    responses = Responses(len(loader.dataset))  # type: ignore[arg-type]
    examples = UnitExamples((), ())
    try:
        with torch.no_grad():
            for batch in tqdm(loader, desc="Units", disable=not progress, delay=2, leave=False):
                image = batch["image"].to(where, non_blocking=True)
                explanation = model.unit_metrics.explain(model, image)
                maps, positions = _maps_and_positions(explanation, image)
                names = explanation.unit_names
                if state is None:
                    state = UnitState.empty(maps, num_images, num_positions, len(class_names))
                label = batch.get("label")
                state.update(maps, positions, None if label is None else label.to(where))
                responses.update(maps, label)
            if state is not None:
                examples = responses.find(model, loader)
    finally:
        model.train(was_training)
    if state is None:
        raise ValueError("the loader has no images; choose a split that has some")
    summary = _summarise(state, tuple(class_names), names)
    needed = set(summary.indices.flatten().tolist())
    needed |= {index for kind in examples for found in kind for index in found.indices}
    images = _fetch(loader.dataset, sorted(needed), mean, std, progress)
    return replace(summary, images=images, **examples._asdict())


def denormalise(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn a normalised image back into pixels.

    Args:
        image: (C, H, W) float with one or three channels.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel.

    Returns:
        (H, W, 3) uint8 on the CPU.

    Raises:
        ValueError: If the image has another number of channels than ``mean`` and ``std``, or
            neither one nor three.
    """
    channels = len(image)
    if channels not in (1, 3) or not channels == len(mean) == len(std):
        raise ValueError(
            f"an image must have 1 or 3 channels, as mean and std have, got {channels} channels "
            f"with {len(mean)} means and {len(std)} standard deviations"
        )
    scale, shift = (rearrange(torch.tensor(list(v)), "c -> c 1 1") for v in (std, mean))
    pixels = (image.detach().float().cpu() * scale + shift).clamp(0, 1) * 255
    return rearrange(pixels.round().byte().expand(3, -1, -1), "c h w -> h w c").contiguous()


def _check_order(loader: DataLoader[Batch]) -> None:
    """Images are found again by counting, which is right only in the data set's own order."""
    batches: Any = loader.batch_sampler
    if type(batches) is not BatchSampler or not isinstance(batches.sampler, SequentialSampler):
        raise ValueError(
            "the loader must give batches in the order of the data set, on one device; use "
            'data.dataloader("test") or DataLoader(dataset, batch_size=32, shuffle=False)'
        )


def _maps_and_positions(explanation: Explanation, image: Tensor) -> tuple[Tensor, Tensor]:
    """Units first: maps (U, B, h, w) and positions (U, B, 2)."""
    if explanation.maps is None:
        raise ValueError("the model's explain() gives no maps (B, U, h, w), so it has no units")
    maps, positions = explanation.maps.float(), explanation.positions
    if positions is None:
        positions = peak_positions(maps, (image.shape[-2], image.shape[-1]))[1]
    return rearrange(maps, "b u h w -> u b h w"), rearrange(positions.float(), "b u xy -> u b xy")


def _summarise(
    state: UnitState, class_names: tuple[str, ...], unit_names: tuple[str, ...]
) -> UnitSummary:
    positions = state.positions.cpu()
    fires = state.peaks.cpu() > 0
    positions = torch.where(fires.unsqueeze(-1), positions, torch.nan)[:, : state.seen]
    count = fires.sum(1).double().unsqueeze(1)
    centre = torch.nansum(positions.double(), 1) / count.masked_fill(count < 1, torch.nan)
    offset = torch.nan_to_num(positions.double() - centre.unsqueeze(1))
    freedom = (count - 1).masked_fill(count < 2, torch.nan)
    covariance = torch.einsum("uti,utj->uij", offset, offset) / freedom.unsqueeze(-1)
    shown = min(state.maps.shape[1], state.seen)
    peaks = state.peaks[:, :shown].cpu()
    limit = reduce(peaks, "u n -> u", "mean").clamp(min=1e-30) / 2
    first = ((limit.log2() - LEAST_OCTAVE) * BINS_PER_OCTAVE).round().clamp(0, BINS - 1)
    above = torch.arange(BINS) >= first.unsqueeze(1)
    return UnitSummary(
        num_seen=state.seen,
        indices=state.indices[:, :shown].cpu(),
        labels=state.labels[:, :shown].cpu(),
        peaks=peaks,
        positions=positions,
        maps=state.maps[:, :shown].cpu(),
        images={},
        class_activation=(state.class_sum / state.class_count).float(),
        share_fired=(state.histogram * above).sum(1) / state.seen,
        position_mean=centre.float(),
        position_covariance=covariance.float(),
        class_names=class_names,
        unit_names=unit_names,
    )


def _fetch(
    dataset: Any, needed: list[int], mean: Sequence[float], std: Sequence[float], progress: bool
) -> dict[int, Tensor]:
    """The pixels of the images that at least one unit needs."""
    bar = tqdm(needed, desc="Unit images", disable=not progress, delay=2, leave=False)
    return {index: denormalise(dataset[index]["image"], mean, std) for index in bar}

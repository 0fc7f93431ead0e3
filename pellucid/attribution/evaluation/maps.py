"""The maps of one method on one network, and what went wrong on the way."""

import time
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.attribution.method import Attribution, AttributionMethod, UnsupportedNetwork
from pellucid.errors import UserError, brief


@dataclass(frozen=True)
class Maps:
    """What a method says of ``B`` images; ``heat`` is None where it says nothing."""

    heat: Tensor | None = None
    """(B, h, w) float32; NaN in images for which it is not finite."""
    completeness_error: Tensor | None = None
    """(B,) float32."""
    seconds: float = 0.0
    """For all images."""
    note: str = ""
    """Why there is no map, or what was warned of."""


def explain_images(
    method: AttributionMethod,
    network: nn.Module,
    image: Tensor,
    target: Tensor,
    batch_size: int = 64,
) -> Maps:
    """Have a method explain images, batch by batch; a method that fails leaves a note.

    Args:
        method: The method.
        network: Maps images (B, C, H, W) to logits (B, K).
        image: (B, C, H, W) float, finite.
        target: (B,) int64.
        batch_size: Images at once, at least 1.
    """
    found: list[Attribution] = []
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            method.check(network, image[:1])
            for first in range(0, len(image), batch_size):
                rows = slice(first, first + batch_size)
                found.append(method.attribute(network, image[rows], target[rows]))
            heat = torch.cat([each.heat for each in found])
        except UnsupportedNetwork as error:
            return Maps(note=f"refused: {brief(str(error))}")
        # A table of ten methods must not be lost for one of them.
        except (ValueError, RuntimeError, TypeError, ImportError, UserError) as error:
            return Maps(note=f"failed: {type(error).__name__}: {brief(str(error))}")
    seconds = time.perf_counter() - start
    notes = list(dict.fromkeys(f"warning: {brief(str(each.message))}" for each in warned))
    bad = ~heat.flatten(1).isfinite().all(1)
    if bool(bad.any()):
        notes.append(f"the map is not finite in {int(bad.sum())} of {len(heat)} images")
        heat = heat.masked_fill(bad[:, None, None], torch.nan)
    errors = [each.completeness_error for each in found]
    known = [each for each in errors if each is not None]
    return Maps(
        heat=heat,
        completeness_error=torch.cat(known).cpu() if len(known) == len(errors) else None,
        seconds=seconds,
        note="; ".join(notes),
    )

"""What the evaluation of explanations spends, and where chance comes from."""

from dataclasses import dataclass

from pellucid.metrics.bootstrap import RESAMPLES
from pellucid.metrics.maps.infidelity import SQUARES
from pellucid.metrics.maps.max_sensitivity import RADIUS, SAMPLES


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all rows of a table share.

    Raises:
        ValueError: A number is out of range.
    """

    seed: int = 0
    """Of squares, changed images, randomised networks, random maps and resampling."""
    steps: int = 16
    """Steps of deletion and insertion."""
    squares: int = SQUARES
    """Squares whose removal infidelity goes by."""
    radius: float = RADIUS
    """Greatest change of a value of an image for max-sensitivity."""
    sensitivity_images: int = 16
    """The first so many images are changed for max-sensitivity; 0: none. Each is explained
    ``sensitivity_samples`` times more."""
    sensitivity_samples: int = SAMPLES
    """Changes of each of them."""
    resamples: int = RESAMPLES
    """Resampled means of a bootstrap interval."""
    batch_size: int = 32
    """Images that are explained, or looked at, at once. Where more are, a processor spends more on
    fetching memory for gradients than the larger batch saves."""
    randomised_images: int = 32
    """The first so many images are also explained with all parameters of the network drawn anew;
    0: none."""

    def __post_init__(self) -> None:
        for name, least in (
            ("seed", 0),
            ("steps", 1),
            ("squares", 2),
            ("sensitivity_images", 0),
            ("sensitivity_samples", 1),
            ("randomised_images", 0),
            ("resamples", 1),
            ("batch_size", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not self.radius > 0:
            raise ValueError(f"radius must be above 0, got {self.radius}; usual is {RADIUS}")

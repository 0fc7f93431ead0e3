"""How many latents respond to the image at all.

Source: Burda, Grosse, Salakhutdinov, *Importance Weighted Autoencoders*, ICLR 2016 (arXiv
1509.00519), section 5.2.
"""

from typing import Any

from pellucid.metrics.disentanglement.code_table import as_codes

LEAST_VARIANCE = 0.01


def active_units(codes: Any, least_variance: float = LEAST_VARIANCE) -> int:
    """Number of codes whose variance over images is above 0.01.

    Args:
        codes: (N, L) posterior means.
        least_variance: Codes that vary less are dead.

    Returns:
        From 0, for an encoder that ignores its input, to L. How many there should be is a matter of
        the data.

    Raises:
        ValueError: If the codes are not finite, or fewer than two.
    """
    return int((as_codes(codes, may_be_constant=True).var(0) > least_variance).sum())

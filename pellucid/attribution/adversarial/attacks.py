"""Every attack by its name."""

from collections.abc import Callable, Mapping
from typing import Any

from pellucid.attribution.adversarial.attack import Attack
from pellucid.attribution.adversarial.gradient_sign import FGSM, PGD
from pellucid.attribution.adversarial.lbfgs import LBFGS
from pellucid.attribution.adversarial.one_pixel import OnePixel
from pellucid.errors import nearest

_CLASSES: tuple[type[Attack], ...] = (FGSM, PGD, LBFGS, OnePixel)
ATTACKS: Mapping[str, Callable[..., Attack]] = {attack.name: attack for attack in _CLASSES}
"""Makes each attack; its options are those of its class."""


def make_attack(name: str, **options: Any) -> Attack:
    """An attack by its name.

    Args:
        name: A key of :data:`ATTACKS`.
        options: Options of its constructor.

    Raises:
        ValueError: There is no such attack, or an option is outside its range.
    """
    if name not in ATTACKS:
        raise ValueError(f"there is no attack {name!r}; {nearest(name, ATTACKS)}")
    return ATTACKS[name](**options)

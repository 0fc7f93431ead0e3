"""Fixtures of the tests of models."""

from collections.abc import Callable
from typing import Any

import pytest
from torch.nn import init


@pytest.fixture
def quick_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the large layers of classifiers as memory happens to be; no backbone has them."""

    def skipping(fill: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, *args, **kwargs: (
            tensor if tensor.numel() > 10**7 else fill(tensor, *args, **kwargs)
        )

    for name in ("normal_", "kaiming_uniform_"):
        monkeypatch.setattr(init, name, skipping(getattr(init, name)))

"""How one figure of a report is named, written and judged."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How a figure is named, written and judged."""

    label: str
    better: Literal["higher", "lower"] | None = None
    unit: str = ""
    definition: str = ""
    percent: bool = False
    """Whether to write a fraction as per cent."""
    whole: bool = False
    """Whether it is a count."""
    comparable: bool = True
    """Whether models with other terms in their loss can be judged by it."""
    over_parts: Literal["mean", "max"] = "mean"
    """How one figure of a unit is made of its figures per part."""

    @property
    def arrow(self) -> str:
        """The direction that is better, as one character."""
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]

    def write(self, value: Any) -> str:
        """A value as text, with three to four digits that matter."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "—" if value is None else str(value)
        if value != value:
            return "—"
        if self.percent:
            return f"{100 * value:.1f} %"
        if self.whole:
            return f"{value:,.0f}"
        if value == 0 or 0.0005 <= abs(value) < 10:
            return f"{value + 0.0:.3f}"  # No minus in front of zero.
        return f"{value:,.1f}" if 10 <= abs(value) < 1e6 else f"{value:.2e}"

    def pick(self) -> Callable[..., float] | None:
        """The function that picks the better of several values."""
        return {"higher": max, "lower": min, None: None}[self.better]

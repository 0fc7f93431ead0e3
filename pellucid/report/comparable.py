"""Whether runs can be compared at all, and if not, why."""

from collections.abc import Sequence

from pellucid.report.checked import sequence
from pellucid.report.runs import Run
from pellucid.report.settings import read_settings

# Options of data modules that change what is to be told apart.
_WHAT = ("categories", "classes", "num_classes", "class_names", "confound", "remove_parts")


def incomparable(runs: Sequence[Run]) -> list[str]:
    """Why figures of these runs do not compare, as sentences; empty where they do.

    Runs on other data, or with other classes, are shown side by side, but without ratios,
    differences or winners.
    """
    if len(runs) < 2:
        return []
    first = runs[0]
    for run in runs[1:]:
        if (why := _differ(first, run)) is not None:
            return [
                f"{first.label} and {run.label} cannot be compared: {why}. Their figures stand "
                "side by side, without ratios, differences or better values."
            ]
    return []


def _differ(first: Run, other: Run) -> str | None:
    a, b = first.class_of("data"), other.class_of("data")
    if a and b and a != b:
        return f"they were tested on other data ({a} and {b})"
    classes = [sequence(run.confusion.get("class_names")) for run in (first, other)]
    names = [[str(name) for name in found] for found in classes]
    if all(names) and names[0] != names[1]:
        return f"they have other classes ({_list(names[0])}, and {_list(names[1])})"
    known = [read_settings(run.config) for run in (first, other)]
    for option in _WHAT:
        values = [settings.get(f"data.{option}") for settings in known]
        if all(known) and values[0] != values[1]:
            return f"data.{option} is {values[0]!r} for one and {values[1]!r} for the other"
    return None


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"

"""How easily a model's predictions are turned over, as the page shows it."""

import json
from dataclasses import dataclass
from typing import Any

from pellucid.report.checked import mapping, number, records, text
from pellucid.report.embed import embed
from pellucid.report.glossary import Figure, figure
from pellucid.report.runs import Run

FILE = "adversarial.json"
COLUMNS = ("success_rate", "l0", "l2", "linf", "seconds")

_BYTES, _LEAST_BYTES, _MOST_BYTES = 300_000, 2_500, 40_000


@dataclass(frozen=True)
class Attack:
    """One attack and pictures of what it made."""

    label: str
    settings: str
    cells: tuple[tuple[str, float | None], ...]
    """One per column: text and value."""
    pictures: tuple[tuple[str, str], ...]
    """Data URI, empty where there is none, and caption."""


@dataclass(frozen=True)
class Vulnerability:
    """All attacks on one run."""

    columns: tuple[Figure, ...]
    attacks: tuple[Attack, ...]


def make_vulnerability(run: Run, num_runs: int = 1) -> Vulnerability | None:
    """The attacks on a run's model; None where there were none.

    Args:
        run: The run.
        num_runs: Number of runs with attacks on the page, which share its room.
    """
    attacks = records(run.adversarial.get("attacks"))
    if run.adversarial and not attacks:
        run.problems.append(f"{FILE} holds no attacks: no adversarial examples.")
    if not attacks:
        return None
    count = sum(len(records(attack.get("shown"))) for attack in attacks)
    room = _BYTES * min(num_runs, 3) // max(num_runs, 1)
    limit = min(max(room // max(count, 1), _LEAST_BYTES), _MOST_BYTES)
    missing: list[str] = []
    columns = tuple(figure(name if name != "seconds" else "attack_seconds") for name in COLUMNS)
    found = tuple(_attack(run, attack, columns, limit, missing) for attack in attacks)
    if missing:
        run.problems.append(
            f"{len(missing)} adversarial pictures cannot be shown, the first one {missing[0]}."
        )
    return Vulnerability(columns, found)


def _attack(
    run: Run,
    attack: dict[str, Any],
    columns: tuple[Figure, ...],
    limit: int,
    missing: list[str],
) -> Attack:
    norms = mapping(attack.get("norms"))
    values = [number((norms if name in norms else attack).get(name)) for name in COLUMNS]
    settings = mapping(attack.get("settings"))
    label = text(attack.get("label")) or text(attack.get("name")) or "unnamed attack"
    return Attack(
        label=label,
        settings=", ".join(f"{key.replace('_', ' ')} {_write(v)}" for key, v in settings.items()),
        cells=tuple(
            (known.write(value), value) for known, value in zip(columns, values, strict=True)
        ),
        pictures=tuple(
            # The name stands before the caption already.
            (
                embed(run, shown.get("file"), limit, missing, FILE),
                text(shown.get("caption")).removeprefix(f"{label}: "),
            )
            for shown in records(attack.get("shown"))
        ),
    )


def _write(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

"""How far the runs of one experiment have found the same latents."""

from collections.abc import Sequence
from zipfile import BadZipFile

from pellucid.report.runs import Run

_CODES = "codes.npz"


def make_agreement(runs: Sequence[Run]) -> list[str]:
    """UDR of runs that differ in their seed or settings, as sentences, one per experiment.

    Args:
        runs: Of any experiments; those without codes, or alone in their experiment, are left out.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if (run.path / _CODES).is_file():
            groups.setdefault((run.experiment, run.class_of("data")), []).append(run)
    return [text for group in groups.values() if len(group) > 1 and (text := _sentence(group))]


def _sentence(group: Sequence[Run]) -> str:
    # Scores are not needed for pages of classifiers, and take a while to import.
    from pellucid.metrics.disentanglement.udr import udr_of_runs

    try:
        found = udr_of_runs([run.path for run in group])
    except (ValueError, KeyError, OSError, BadZipFile, ImportError) as error:
        group[0].problems.append(f"UDR of {group[0].experiment} cannot be computed: {error}.")
        return ""
    texts = [
        f"{run.label} {found[str(run.path)].udr:.3f} ± {found[str(run.path)].std:.3f}"
        for run in group
    ]
    return (
        f"UDR of {len(group)} runs, how far each has found the same latents as the others "
        f"(from 0 to 1, higher is better; ± over resampled images): {'; '.join(texts)}."
    )

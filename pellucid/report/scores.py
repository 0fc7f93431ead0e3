"""What the figures of generators say, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pellucid.report.runs import Run

# More figures make no sentence.
_MOST_PARTS = 4
_MOST_WON = 2


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a figure of a generator is spoken of."""

    name: str
    noun: str
    reached: str
    """Of a single run, with the value in place of the braces."""
    better: Literal["higher", "lower"] | None = "higher"
    form: Literal["number", "percent", "count", "nats"] = "number"

    def write(self, value: float) -> str:
        """A value as text."""
        if self.form == "percent":
            return f"{100 * value:.1f} %"
        forms = {"number": ".3f", "count": ".0f", "nats": ".1f"}
        return f"{value:{forms[self.form]}}"


SCORES = (
    Score(name="mig", noun="MIG", reached="a MIG of {}"),
    Score(name="factor_vae_score", noun="FactorVAE score", reached="a FactorVAE score of {}"),
    Score(name="beta_vae_score", noun="beta-VAE score", reached="a beta-VAE score of {}"),
    Score(
        name="code_error_hungarian",
        noun="error of the categorical code",
        reached="an error of the categorical code of {}",
        better="lower",
        form="percent",
    ),
    Score(
        name="judged_accuracy",
        noun="share of samples judged as their label",
        reached="{} of samples judged as their label",
        form="percent",
    ),
    Score(
        name="classifier_fid",
        noun="classifier FID",
        reached="a classifier FID of {}",
        better="lower",
    ),
    Score(
        name="dci_disentanglement",
        noun="DCI disentanglement",
        reached="a DCI disentanglement of {}",
    ),
    Score(
        name="active_units",
        noun="number of active latents",
        reached="{} active latents",
        better=None,
        form="count",
    ),
    Score(name="elbo", noun="ELBO in nats", reached="an ELBO of {} nats", form="nats"),
)
"""By how much they say of a generator, the most telling first."""


def reached(run: Run, stage: str) -> list[str]:
    """What a run reached, as parts of a sentence after "has".

    Args:
        run: The run.
        stage: The stage of the figures.
    """
    found = [(score, _get(run, stage, score)) for score in SCORES]
    parts = [score.reached.format(score.write(v)) for score, v in found if v is not None]
    return parts[:_MOST_PARTS]


def compared(first: Run, other: Run, stage: str) -> list[str]:
    """How a run stands against the first one, as parts of a sentence.

    Args:
        first: The run to compare with.
        other: The run.
        stage: The stage of the figures.
    """
    parts = []
    for score in SCORES:
        value, before = _get(other, stage, score), _get(first, stage, score)
        if value is None or before is None:
            continue
        now, then = score.write(value), score.write(before)
        # What reads the same is the same.
        if now == then:
            parts.append(f"its {score.noun} is the same ({now})")
            continue
        way = "higher" if value > before else "lower"
        judged = ": better" if way == score.better else ": worse" if score.better else ""
        parts.append(f"its {score.noun} is {way} ({now} against {then}{judged})")
    return parts[:_MOST_PARTS]


def best_of(runs: Sequence[Run], stage: str) -> list[str]:
    """Which of many runs is the best by the two most telling scores, as parts of a sentence.

    Args:
        runs: Three or more; of fewer, each is spoken of by itself.
        stage: The stage of the figures.
    """
    won: dict[str, list[str]] = {}
    for score in SCORES if len(runs) > 2 else ():
        values = [(_get(run, stage, score), run) for run in runs]
        known = [(value, run) for value, run in values if value is not None]
        if len(known) < len(runs) or score.better is None:
            continue
        best = (max if score.better == "higher" else min)(value for value, _ in known)
        # What reads the same is the same: then there is no best one.
        winners = [run for value, run in known if score.write(value) == score.write(best)]
        if len(winners) == 1 and sum(map(len, won.values())) < _MOST_WON:
            most = "highest" if score.better == "higher" else "lowest"
            text = f"the {most} {score.noun} ({score.write(best)})"
            won.setdefault(winners[0].label, []).append(text)
    return [f"{label} has {' and '.join(texts)}" for label, texts in won.items()]


def _get(run: Run, stage: str, score: Score) -> float | None:
    value = run.metrics.get(f"{stage}/{score.name}")
    return None if value is None or value != value else value

"""Whether models that differ in their seed alone have found the same latents.

Source: Duan et al., *Unsupervised Model Selection for Variational Disentangled Representation
Learning*, ICLR 2020 (arXiv 1905.12614), section 3 and equation 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pellucid.metrics.disentanglement.active_units import LEAST_VARIANCE
from pellucid.metrics.disentanglement.code_table import Floats, as_codes
from pellucid.metrics.resampling import RESAMPLINGS, check_resamplings

Correlation = Literal["lasso", "spearman"]
LASSO_ALPHA = 0.1
LEAST_KL = 0.01
CODES_FILE = "codes.npz"
"""In a run directory: ``codes`` (N, L), ``index`` (N,), ``image_mean`` (N,) of the pixels, and
``kl_per_latent`` (L,) where known."""
_LEAST_LIKENESS = 0.95
"""Correlation of the means of images that are the same but for how they were normalised."""


def udr(
    codes: Sequence[Any],
    kl_per_latent: Sequence[Any | None] | None = None,
    *,
    correlation: Correlation = "lasso",
    least_kl: float = LEAST_KL,
) -> Floats:
    r"""Unsupervised disentanglement ranking of models that saw the same images.

    :math:`R_{ab}` is how strongly latent a of one model goes with latent b of another, and two
    models agree by :math:`\frac{1}{2} (\mathrm{mean}_b \frac{r_b^2}{\sum_a R_{ab}} +
    \mathrm{mean}_a \frac{r_a^2}{\sum_b R_{ab}})` with :math:`r` the largest of a column or a row.
    A model's figure is the median over the other models.

    Latents with a mean KL of at most ``least_kl`` are dead and left out; where the KL is not known,
    those whose variance is at most 0.01 (see :func:`active_units`). A model without any active
    latent agrees with none: 0.

    Args:
        codes: For each of M models (N, L), L of its own.
        kl_per_latent: For each model (L,) in nats, or None where it is not known.
        correlation: ``lasso``: absolute weights of a Lasso regression (alpha 0.1) from standardised
            codes to standardised codes; ``spearman``: absolute rank correlation.
        least_kl: In nats.

    Returns:
        (M,) from 0 to 1, higher is better.

    Raises:
        ValueError: If there are fewer than two models, rows differ, or codes are wrong.
    """
    tables, kls = _checked(codes, kl_per_latent, correlation)
    active = [_standardised(*pair, least_kl) for pair in zip(tables, kls, strict=True)]
    agreement = np.full((len(active),) * 2, np.nan)
    for i, first in enumerate(active):
        for j, second in enumerate(active):
            if i != j:
                agreement[i, j] = _agreement(first, second, correlation)
    return np.asarray(np.nanmedian(agreement, axis=0))


def _checked(
    codes: Sequence[Any], kl_per_latent: Sequence[Any | None] | None, correlation: Correlation
) -> tuple[list[Floats], list[Any | None]]:
    """The codes of at least two models for the same images, and the KL of each model's."""
    if correlation not in get_args(Correlation):
        raise ValueError(f"correlation must be lasso or spearman, got {correlation!r}")
    if len(codes) < 2:
        raise ValueError(f"udr needs codes of at least 2 models, got {len(codes)}")
    kls = [None] * len(codes) if kl_per_latent is None else list(kl_per_latent)
    if len(kls) != len(codes):
        raise ValueError(f"kl_per_latent must be {len(codes)}, one for each model, got {len(kls)}")
    tables = [as_codes(each) for each in codes]
    if len({len(table) for table in tables}) > 1:
        rows = ", ".join(str(len(table)) for table in tables)
        raise ValueError(f"codes must be of the same images for all models, got {rows} rows")
    return tables, kls


def udr_spread(
    codes: Sequence[Any],
    kl_per_latent: Sequence[Any | None] | None = None,
    *,
    correlation: Correlation = "lasso",
    least_kl: float = LEAST_KL,
    resamplings: int = RESAMPLINGS,
    seed: int = 0,
) -> Floats:
    """How much UDR varies with the images, which are drawn anew for all models at once.

    Args:
        codes: See :func:`udr`.
        kl_per_latent: Likewise.
        correlation: Likewise.
        least_kl: Likewise.
        resamplings: How often as many images are drawn with replacement, at least 2.
        seed: Of the draws.

    Returns:
        (M,) standard deviation of each model's figure, over the draws that have one; NaN where
        fewer than two have.

    Raises:
        ValueError: See :func:`udr`; or ``resamplings`` is below 2.
    """
    check_resamplings(resamplings)
    if not resamplings:
        raise ValueError("resamplings must be at least 2, got 0")
    rng, found = np.random.default_rng(seed), []
    tables, kls = _checked(codes, kl_per_latent, correlation)
    for _ in range(resamplings):
        rows = rng.integers(len(tables[0]), size=len(tables[0]))
        drawn = [table[rows] for table in tables]
        try:
            found.append(udr(drawn, kls, correlation=correlation, least_kl=least_kl))
        except ValueError:  # One image alone, or the like: nothing varies.
            continue
    if len(found) < 2:
        return np.full(len(tables), np.nan)
    return np.asarray(np.std(found, axis=0, ddof=1))


def _standardised(codes: Floats, kl: Any | None, least_kl: float) -> Floats:
    """The active latents with mean 0 and standard deviation 1."""
    if kl is None:
        active: NDArray[np.bool_] = codes.var(0) > LEAST_VARIANCE
    else:
        kl = np.asarray(kl, dtype=np.float64)
        if kl.shape != codes.shape[1:]:
            raise ValueError(f"kl_per_latent must be ({codes.shape[1]},), got {kl.shape}")
        active = (kl > least_kl) & (codes.std(0) > 0)
    chosen = codes[:, active]
    standardised: Floats = (chosen - chosen.mean(0)) / chosen.std(0)
    return standardised


def _agreement(first: Floats, second: Floats, correlation: Correlation) -> float:
    if not first.shape[1] or not second.shape[1]:
        return 0.0
    if correlation == "spearman":
        ranks = [rankdata(codes, axis=0) for codes in (first, second)]
        ranks = [(rank - rank.mean(0)) / rank.std(0) for rank in ranks]
        strength = np.abs(ranks[0].T @ ranks[1]) / len(first)
    else:
        from sklearn.linear_model import Lasso

        weights = Lasso(alpha=LASSO_ALPHA).fit(first, second).coef_
        strength = np.abs(np.atleast_2d(weights)).T
    return (_relative_strength(strength) + _relative_strength(strength.T)) / 2


def _relative_strength(strength: Floats) -> float:
    total = strength.sum(0)
    return float((strength.max(0) ** 2 / np.where(total > 0, total, 1.0)).mean())


class RunAgreement(NamedTuple):
    """How far a run has found the same latents as others."""

    udr: float
    std: float
    """Its standard deviation over resampled images; NaN where it was not wanted."""


def udr_of_runs(
    directories: Sequence[str | Path],
    *,
    correlation: Correlation = "lasso",
    least_kl: float = LEAST_KL,
    resamplings: int = RESAMPLINGS,
) -> dict[str, RunAgreement]:
    """UDR of finished runs on the same data, from the codes that each has written.

    Args:
        directories: At least two run directories.
        correlation: See :func:`udr`.
        least_kl: Likewise.
        resamplings: Resampled sets of images for the spread; 0: none.

    Returns:
        By directory, as given.

    Raises:
        ValueError: If a run has no ``codes.npz``, no two images are in all of them, or the images
            of that number are others.
    """
    content = [_read(Path(directory)) for directory in directories]
    shared = content[0]["index"] if content else np.empty(0)
    for each in content[1:]:
        shared = np.intersect1d(shared, each["index"])
    if len(content) > 1 and len(shared) < 2:
        raise ValueError(
            f"the runs share {len(shared)} test images; UDR compares runs on one split"
        )
    codes, means = [], []
    for name, each in zip(directories, content, strict=True):
        order = np.argsort(each["index"])
        rows = order[np.searchsorted(each["index"][order], shared)]
        codes.append(each["codes"][rows])
        # Of runs of earlier versions they are not known.
        means += [(name, each["image_mean"][rows])] if "image_mean" in each else []
    for name, mean in means[1:]:
        if not _are_alike(means[0][1], mean):
            raise ValueError(
                f"{means[0][0]} and {name} were tested on other images; UDR compares runs on one "
                "split"
            )
    kl = [each.get("kl_per_latent") for each in content]
    options: dict[str, Any] = {"correlation": correlation, "least_kl": least_kl}
    found, spread = udr(codes, kl, **options), np.full(len(codes), np.nan)
    if resamplings:
        spread = udr_spread(codes, kl, resamplings=resamplings, **options)
    return {
        str(name): RunAgreement(float(value), float(std))
        for name, value, std in zip(directories, found, spread, strict=True)
    }


def _are_alike(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether images are the same, by the means of their pixels."""
    if not first.std() or not second.std():
        return bool(np.allclose(first, second))
    return bool(np.corrcoef(first, second)[0, 1] >= _LEAST_LIKENESS)


def _read(directory: Path) -> dict[str, NDArray[Any]]:
    path = directory / CODES_FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist: `pellucid run` writes it for models with codes")
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}

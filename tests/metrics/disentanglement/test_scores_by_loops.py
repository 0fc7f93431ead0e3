"""Each score against a direct transcription of its definition, on fixed representations."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.svm import LinearSVC

from pellucid.metrics.disentanglement import (
    CodeTable,
    active_units,
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    irs,
    kl_per_latent,
    mig,
    modularity,
    pairwise_mutual_information,
    sap,
    total_correlation,
    udr,
)
from pellucid.metrics.disentanglement.boosting import fit_boosted_trees
from pellucid.metrics.disentanglement.sap import fit_svm
from tests.metrics.disentanglement.representations import NAMES, make


def information(table: CodeTable, bins: int = 20) -> np.ndarray:
    found = np.zeros((table.codes.shape[1], 3))
    for j in range(table.codes.shape[1]):
        edges = np.histogram(table.codes[:, j], bins)[1][:-1]
        binned = np.digitize(table.codes[:, j], edges)
        for k in range(3):
            found[j, k] = mutual_info_score(table.factors[:, k], binned)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_mig_and_modularity(name):
    table = make(name)
    found = information(table)
    gaps, parts = [], []
    for k in range(3):
        best = sorted(found[:, k])
        gaps.append((best[-1] - best[-2]) / entropy(np.bincount(table.values[:, k])))
    for row in found:
        # Rounding leaves a constant code some 1e-17 nats, which is nothing.
        top = max(row)
        rest = sum(x * x for x in row) - top * top
        parts.append(0.0 if top < 1e-12 else 1 - rest / (top * top * 2))
    assert mig(table) == pytest.approx(np.mean(gaps), abs=1e-9)
    assert modularity(table) == pytest.approx(np.mean(parts), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_irs(name):
    table = make(name)
    scores, weights = [], []
    for code in table.codes.T:
        furthest = max(abs(z - code.mean()) for z in code)
        if furthest == 0:
            continue
        by_factor = []
        for k in range(3):
            strays = []
            for value in range(table.factor_sizes[k]):
                group = code[table.factors[:, k] == value]
                strays.append(np.quantile([abs(z - group.mean()) for z in group], 0.99))
            by_factor.append(1 - np.mean(strays) / furthest)
        scores.append(max(by_factor))
        weights.append(furthest)
    expected = sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights)
    assert irs(table) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_the_svm_is_the_one_of_liblinear(labels, scale):
    rng = np.random.default_rng(1)
    label = rng.choice(labels, size=300, p=np.arange(1, labels + 1) / sum(range(labels + 1)))
    x = scale * (label + rng.normal(size=300) + 0.5)
    reference = LinearSVC(C=0.01, class_weight="balanced", tol=1e-10, max_iter=10**6, dual=False)
    reference.fit(x[:, None], label)
    ours = fit_svm(x, label, 0.01)
    np.testing.assert_allclose(ours.weight, reference.coef_[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.bias, reference.intercept_, rtol=1e-4, atol=1e-6)
    assert (ours.predict(x) == reference.predict(x[:, None])).all()


@pytest.mark.parametrize("name", ["noisy", "redundant"])
def test_sap(name):
    table = make(name)
    train, test = table.split(400, 200, np.random.default_rng(3))
    gaps = []
    for k in range(3):
        accuracy = []
        for code in table.codes.T:
            svm = LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-8)
            svm.fit(code[train, None], table.values[train, k])
            accuracy.append(np.mean(svm.predict(code[test, None]) == table.values[test, k]))
        accuracy.sort()
        gaps.append(accuracy[-1] - accuracy[-2])
    assert sap(table, num_train=400, num_test=200, seed=3) == pytest.approx(np.mean(gaps), abs=1e-9)


def test_sap_of_a_continuous_factor_is_a_gap_of_squared_correlations():
    rng = np.random.default_rng(0)
    factor = rng.random((500, 1))
    codes = np.concatenate([factor, factor + 0.5 * rng.random((500, 1)), np.ones((500, 1))], 1)
    rows, _ = CodeTable(codes, factor).split(10_000, 5_000, np.random.default_rng(0))
    expected = 1 - np.corrcoef(codes[rows, 1], factor[rows, 0])[0, 1] ** 2
    assert sap(CodeTable(codes, factor)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["noisy", "random", "constant"])
def test_explicitness(name):
    table = make(name)
    train, test = table.split(400, 200, np.random.default_rng(5))
    mean, std = table.codes[train].mean(0), table.codes[train].std(0)
    codes = (table.codes - mean) / np.where(std == 0, 1, std)
    areas = []
    for k in range(3):
        model = LogisticRegression().fit(codes[train], table.values[train, k])
        shares = model.predict_proba(codes[test])
        one_hot = table.values[test, k][:, None] == np.arange(table.factor_sizes[k])
        areas.append(roc_auc_score(one_hot, shares))
    found = explicitness(table, num_train=400, num_test=200, seed=5)
    assert found == pytest.approx(np.mean(areas), abs=1e-9)


@pytest.mark.parametrize("labels", [2, 3])
def test_trees_of_few_values_are_those_of_scikit_learn(labels):
    """The two look for splits at the same places."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(240, 4))
    label = (x[:, 0] + 0.6 * x[:, 1] + 0.5 * rng.normal(size=240) > 0).astype(int)
    label += (labels == 3) * (x[:, 2] > 1)
    ours = fit_boosted_trees(x[:200], label[:200], x[200:], num_stages=40)
    reference = GradientBoostingClassifier(n_estimators=40, random_state=0)
    reference.fit(x[:200], label[:200])
    np.testing.assert_allclose(ours.importances, reference.feature_importances_, atol=0.01)
    assert (ours.predicted == reference.predict(x[200:])).mean() >= 0.975


@pytest.mark.parametrize("name", ["noisy", "rotated", "random"])
def test_dci_is_the_published_one_within_sampling_error(name):
    table = make(name)
    sizes = {"num_train": 400, "num_test": 200}
    ours, quick = dci(table, **sizes), dci(table, booster="histogram", **sizes)
    others = [dci(table, **sizes, seed=seed) for seed in range(1, 4)]
    matrix, accuracy = published_importances(table, **sizes)
    published = [mean_concentration(matrix.T), mean_concentration(matrix), accuracy]
    for figure in range(3):
        draws = [ours[figure], *(other[figure] for other in others)]
        allowed = max(0.01, 2 * np.std(draws, ddof=1))
        assert abs(ours[figure] - published[figure]) < allowed
        assert abs(quick[figure] - published[figure]) < 2 * allowed


def test_dci_is_the_published_one_of_codes_with_many_values():
    """Rows that are misfitted are split off one by one, which splits at quantiles cannot."""
    rng = np.random.default_rng(3)
    factors = np.stack([rng.integers(size, size=2400) for size in (3, 6, 8)], 1)
    codes = factors / np.array([3, 6, 8]) + 0.1 * rng.normal(size=factors.shape)
    table = CodeTable(codes, factors)
    sizes = {"num_train": 1600, "num_test": 800}
    ours, quick = dci(table, **sizes), dci(table, booster="histogram", **sizes)
    matrix, accuracy = published_importances(table, **sizes)
    assert ours.disentanglement == pytest.approx(mean_concentration(matrix.T), abs=0.01)
    assert ours.completeness == pytest.approx(mean_concentration(matrix), abs=0.01)
    assert ours.informativeness == pytest.approx(accuracy, abs=0.01)
    assert ours.disentanglement - quick.disentanglement > 0.02


def published_importances(table: CodeTable, num_train: int, num_test: int) -> tuple:
    train, test = table.split(num_train, num_test, np.random.default_rng(0))
    importances, accuracies = [], []
    for label in table.values.T:
        model = GradientBoostingClassifier(random_state=0).fit(table.codes[train], label[train])
        importances.append(model.feature_importances_)
        accuracies.append(model.score(table.codes[test], label[test]))
    return np.stack(importances, 1), np.mean(accuracies)


def mean_concentration(matrix: np.ndarray) -> float:
    each = [1 - entropy(column + 1e-11, base=len(column)) for column in matrix.T]
    return np.average(each, weights=matrix.sum(0))


def test_dci_of_its_importances():
    found = dci(make("noisy"), num_train=400, num_test=200)
    matrix = found.importances
    codes = [1 - entropy(row + 1e-11, base=3) for row in matrix]
    weights = [sum(row) / matrix.sum() for row in matrix]
    expected = sum(c * w for c, w in zip(codes, weights, strict=True))
    assert found.disentanglement == pytest.approx(expected, abs=1e-9)
    factors = [1 - entropy(column + 1e-11, base=3) for column in matrix.T]
    assert found.completeness == pytest.approx(np.mean(factors), abs=1e-9)


def beta_vae_by_loops(table: CodeTable, points: int, pairs: int, rng) -> tuple[list, list]:
    features, labels = [], []
    for _ in range(points):
        k = rng.integers(3)
        total = np.zeros(table.codes.shape[1])
        for _ in range(pairs):
            first = [rng.integers(size) for size in table.factor_sizes]
            second = [rng.integers(size) for size in table.factor_sizes]
            second[k] = first[k]
            # A full grid, repeated: any of the copies.
            rows = [
                np.ravel_multi_index(each, table.factor_sizes) + 60 * rng.integers(10)
                for each in (first, second)
            ]
            total += abs(table.codes[rows[0]] - table.codes[rows[1]])
        features.append(total / pairs)
        labels.append(k)
    return features, labels


@pytest.mark.parametrize("name", ["noisy", "rotated"])
def test_beta_vae_score(name):
    table, rng = make(name), np.random.default_rng(0)
    model = LogisticRegression().fit(*beta_vae_by_loops(table, 400, 8, rng))
    expected = model.score(*beta_vae_by_loops(table, 400, 8, rng))
    found = beta_vae_score(table, num_train=400, num_test=4000, batch_size=8)
    # Four standard errors of an accuracy over 400 points, and some for the training.
    assert found == pytest.approx(expected, abs=4 * 0.5 / 20)


def factor_vae_by_loops(table: CodeTable, count: int, size: int, rng) -> np.ndarray:
    votes = np.zeros((3, table.codes.shape[1]), dtype=int)
    variance = table.codes.var(0, ddof=1)
    for _ in range(count):
        k = rng.integers(3)
        rows = []
        held = rng.integers(table.factor_sizes[k])
        for _ in range(size):
            factors = [rng.integers(n) for n in table.factor_sizes]
            factors[k] = held
            rows.append(np.ravel_multi_index(factors, table.factor_sizes) + 60 * rng.integers(10))
        votes[k, (table.codes[rows].var(0, ddof=1) / variance).argmin()] += 1
    return votes


@pytest.mark.parametrize("name", ["noisy", "rotated", "random"])
def test_factor_vae_score(name):
    table, rng = make(name), np.random.default_rng(0)
    train = factor_vae_by_loops(table, 400, 16, rng)
    test = factor_vae_by_loops(table, 400, 16, rng)
    expected = sum(test[train[:, j].argmax(), j] for j in range(train.shape[1])) / 400
    found = factor_vae_score(table, num_train=400, num_test=4000, batch_size=16)
    assert found == pytest.approx(expected, abs=4 * 0.5 / 20)


def test_what_a_perfect_representation_has():
    table = make("perfect")
    assert mig(table) == pytest.approx(1, abs=1e-9)
    assert modularity(table) == pytest.approx(1, abs=1e-9)
    assert factor_vae_score(table, num_train=300, num_test=300) == 1
    assert beta_vae_score(table, num_train=600, num_test=300) == 1
    # What a dead code would need to win is nothing.
    assert irs(table) == pytest.approx(1, abs=1e-9)
    found = dci(table)
    assert min(found[:3]) > 0.99
    # Values in the middle are out of the reach of lines: not 1 even here.
    assert sap(table) > 0.2


def test_what_dead_units_do():
    perfect, dead, constant = make("perfect"), make("dead"), make("constant")
    small = {"num_train": 300, "num_test": 300}
    for score in (mig, lambda t: factor_vae_score(t, **small), irs):
        assert score(constant) == pytest.approx(score(perfect), abs=1e-9)
    assert mig(dead) == pytest.approx(mig(perfect), abs=0.05)
    assert factor_vae_score(dead, **small) == 1
    assert factor_vae_score(dead, least_std=0.0, **small) == 1
    assert modularity(constant) == pytest.approx(0.75, abs=1e-9)
    for table in (dead, constant):
        assert dci(table).disentanglement > 0.99
        assert beta_vae_score(table, num_train=600, num_test=300) == 1
    assert active_units(dead.codes) == active_units(constant.codes) == 3
    assert factor_vae_score(CodeTable(0.01 * perfect.codes, perfect.factors), **small) == 0


def test_two_codes_for_each_factor():
    table = make("redundant")
    assert mig(table) == pytest.approx(0, abs=1e-9)
    assert sap(table) == pytest.approx(0, abs=0.02)
    assert modularity(table) == pytest.approx(1, abs=1e-9)
    assert dci(table).disentanglement > 0.99
    with pytest.raises(ValueError, match="infinite total correlation"):
        total_correlation(table.codes)
    # Their sum is 1 but for rounding, which is large beside so small a spread.
    spread = 1e-3 * np.random.default_rng(4).normal(size=(2000, 3))
    probabilities = np.exp(spread) / np.exp(spread).sum(1, keepdims=True)
    with pytest.raises(ValueError, match="infinite total correlation"):
        total_correlation(probabilities.astype(np.float32))


def test_total_correlation_is_a_divergence_of_gaussians():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))
    covariance = torch.tensor(np.cov(codes, rowvar=False))
    joint = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.double), covariance)
    alone = torch.distributions.MultivariateNormal(
        torch.zeros(3, dtype=torch.double), torch.diag(torch.diag(covariance))
    )
    expected = float(torch.distributions.kl_divergence(joint, alone))
    assert total_correlation(codes) == pytest.approx(expected, rel=1e-9)
    # A constant code depends on nothing.
    more = np.concatenate([codes, np.zeros((400, 1))], 1)
    assert total_correlation(more) == pytest.approx(expected, rel=1e-9)


def test_pairwise_mutual_information():
    table = make("noisy")
    binned = [np.digitize(c, np.histogram(c, 20)[1][:-1]) for c in table.codes.T]
    pairs = [mutual_info_score(binned[a], binned[b]) for a in range(3) for b in range(3) if a != b]
    assert pairwise_mutual_information(table.codes) == pytest.approx(np.mean(pairs), abs=1e-9)
    with pytest.raises(ValueError, match="1001 columns, and pairs of up to 1000"):
        pairwise_mutual_information(np.random.default_rng(0).random((30, 1001)))


def test_kl_per_latent():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, prior)
    torch.testing.assert_close(kl_per_latent(mean, log_variance), expected)
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 2\)"):
        kl_per_latent(mean, log_variance[:, :2])


@pytest.mark.parametrize("correlation", ["lasso", "spearman"])
def test_udr(correlation):
    models = [make(name).codes for name in ("noisy", "rotated", "dead")]
    kl = [np.ones(3), np.array([1, 0.01, 1]), np.array([1, 1, 1, 0.001, 0.02])]
    kept = [np.where(each > 0.01)[0] for each in kl]
    pairs = {}
    for i, first in enumerate(models):
        for j, second in enumerate(models):
            if i == j:
                continue
            strength = np.zeros((len(kept[i]), len(kept[j])))
            scaled = [
                (codes[:, k] - codes[:, k].mean(0)) / codes[:, k].std(0)
                for codes, k in ((first, kept[i]), (second, kept[j]))
            ]
            for b in range(len(kept[j])):
                weights = Lasso(alpha=0.1).fit(scaled[0], scaled[1][:, b]).coef_
                for a in range(len(kept[i])):
                    rank = spearmanr(scaled[0][:, a], scaled[1][:, b])[0]
                    strength[a, b] = abs(weights[a] if correlation == "lasso" else rank)
            parts = []
            for lines in (strength, strength.T):
                parts.append(
                    np.mean([max(line) ** 2 / sum(line) if sum(line) else 0.0 for line in lines])
                )
            pairs[i, j] = np.mean(parts)
    expected = [np.median([pairs[i, j] for i in range(3) if i != j]) for j in range(3)]
    np.testing.assert_allclose(udr(models, kl, correlation=correlation), expected, atol=1e-9)

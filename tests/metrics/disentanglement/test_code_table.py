import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pellucid.metrics.disentanglement import (
    CodeTable,
    ScoreSettings,
    active_units,
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    irs,
    mig,
    modularity,
    sap,
    score_table,
    udr,
    udr_of_runs,
    udr_spread,
)
from tests.metrics.disentanglement.representations import grid, make


def test_rows_that_share_a_factor_share_no_other_more_than_by_chance():
    table, rng = make("perfect"), np.random.default_rng(0)
    rows = table.draw((20_000,), rng)
    for k in range(3):
        shared = table.sharing(rows, k, rng)
        same = (table.values[rows] == table.values[shared]).mean(0)
        expected = np.where(np.arange(3) == k, 1, 1 / np.array(table.factor_sizes))
        np.testing.assert_allclose(same, expected, atol=0.02)
        # Every row of the value is as likely as any other.
        counts = np.bincount(shared[rows % 60 == 0])
        assert counts[counts > 0].max() < 60


def test_without_a_full_grid_the_same_scores_can_be_had():
    rng = np.random.default_rng(0)
    some = rng.permutation(600)[:200]
    table = CodeTable(make("perfect").codes[some], grid()[some])
    small = {"num_train": 300, "num_test": 300}
    assert factor_vae_score(table, **small) == 1
    assert beta_vae_score(table, **small) > 0.97


def test_values_are_numbered_and_constant_factors_left_out():
    factors = torch.tensor([[5, 1, 0], [9, 1, 2], [5, 1, 0], [7, 1, 2]])
    codes = torch.arange(8.0).view(4, 2)
    table = CodeTable(codes, factors, factor_names=("a", "b", "c"))
    assert table.factor_sizes == (3, 2)
    assert table.factor_names == ("a", "c")
    assert table.constant == ("b",)
    assert table.values.tolist() == [[0, 0], [2, 1], [0, 0], [1, 1]]


def test_continuous_factors_are_put_into_bins():
    factor = np.linspace(0, 1, 50)[:, None]
    table = CodeTable(factor, factor, factor_bins=5)
    assert table.continuous == (True,)
    assert table.factor_sizes == (5,)
    assert np.bincount(table.values[:, 0]).tolist() == [10] * 5
    assert not CodeTable(factor, np.floor(4 * factor)).continuous[0]


def test_parts_share_no_image_even_in_a_resampled_table():
    table = make("noisy").resampled(np.random.default_rng(1))
    assert len(table) == 600
    assert len(set(table.origin.tolist())) < 450
    np.testing.assert_array_equal(table.codes, make("noisy").codes[table.origin])
    for sizes in ((400, 100), (10_000, 5_000)):
        train, test = table.split(*sizes, np.random.default_rng(0))
        assert not set(table.origin[train].tolist()) & set(table.origin[test].tolist())
        assert len(train) >= 400
        assert len(test) >= 90
    shared = table.sharing(np.arange(600), 2, np.random.default_rng(0))
    assert (table.values[shared, 2] == table.values[:, 2]).all()


@pytest.mark.parametrize(
    ("codes", "factors", "says"),
    [
        (np.ones((50, 3)), np.arange(50)[:, None], r"constant, all columns from codes\[:, 0\] = 1"),
        (
            np.where(np.eye(50)[:, :3] > 0, np.nan, 1),
            np.arange(50)[:, None],
            r"codes\[:, 0\] has 1",
        ),
        (np.full((50, 2), np.inf), np.arange(50)[:, None], r"codes\[:, 0\] has 50 values of 50"),
        (np.eye(50)[:1], np.zeros((1, 1)), "1 rows, and at least 2 are needed"),
        (np.eye(50)[0], np.zeros((50, 1)), r"must be \(N, L\)"),
        (np.eye(50), np.arange(49)[:, None], r"each of the 50 rows of codes, got \(49, 1\)"),
        (np.eye(50), np.ones((50, 2)), "factors are constant"),
        (np.eye(50), np.full((50, 1), np.nan), r"factors\[:, 0\] has values that are not finite"),
    ],
)
def test_wrong_tables(codes, factors, says):
    with pytest.raises(ValueError, match=says):
        CodeTable(codes, factors)


@pytest.mark.parametrize(
    ("score", "rows"),
    [
        *((score, 20) for score in (mig, modularity, irs)),
        *((score, 30) for score in (sap, explicitness, dci)),
        *((score, 64) for score in (beta_vae_score, factor_vae_score)),
    ],
)
def test_too_few_rows(score, rows):
    table = make("noisy")
    few = CodeTable(table.codes[: rows - 1], table.factors[: rows - 1])
    with pytest.raises(ValueError, match=f"{rows - 1} rows, and at least {rows} are needed"):
        score(few)
    with pytest.raises(ValueError, match="num_train must be at least 1, got 0"):
        score(table, num_train=0)


def test_a_factor_that_stands_still_in_the_rows_at_hand_is_named():
    """Not a figure that is none, as of a division by an entropy of 0."""
    codes = np.random.default_rng(0).normal(size=(100, 3))
    rare = np.zeros((100, 1))
    rare[np.random.default_rng(0).permutation(100)[50]] = 1
    with pytest.raises(ValueError, match="factor rare has one value in the rows that mig looks at"):
        mig(CodeTable(codes, rare, factor_names=("rare",)), num_train=40)
    seen = np.zeros((100, 1))
    train, _ = CodeTable(codes, rare).split(60, 40, np.random.default_rng(0))
    seen[train[:3]] = 1
    with pytest.raises(ValueError, match="one value each in the training rows or in the test rows"):
        explicitness(CodeTable(codes, seen), num_train=60, num_test=40)


def test_other_wrong_options():
    table = make("noisy")
    with pytest.raises(ValueError, match="booster must be histogram or exact, got 'quick'"):
        dci(table, booster="quick")
    with pytest.raises(ValueError, match=r"quantile must be in \(0, 1\], got 0"):
        irs(table, quantile=0)
    with pytest.raises(ValueError, match="penalty must be above 0, got 0"):
        sap(table, penalty=0)
    with pytest.raises(ValueError, match="least_std must be at least 0, got -1"):
        factor_vae_score(table, least_std=-1)
    for name in ("batch_size", "num_rows"):
        with pytest.raises(ValueError, match=f"{name} must be at least 2, got 1"):
            factor_vae_score(table, **{name: 1})
    one = CodeTable(table.codes, table.factors[:, :1])
    for score in (modularity, beta_vae_score):
        with pytest.raises(ValueError, match="at least 2 factors"):
            score(one)
    with pytest.raises(ValueError, match="at least 2 codes"):
        sap(CodeTable(table.codes[:, :1], table.factors))
    with pytest.raises(ValueError, match="resamplings must be 0 or at least 2, got 1"):
        ScoreSettings(resamplings=1)
    for name, value, limit in (
        ("num_bins", 1, "at least 2, got 1"),
        ("num_bins", 2.5, "a whole number, got 2.5"),
        ("num_train", math.nan, "at least 1, got nan"),
        ("seed", 0.5, "a whole number, got 0.5"),
        ("dci_stages", 0, "at least 1, got 0"),
        ("factor_vae_rows", 1, "at least 2, got 1"),
        ("factor_vae_least_std", -1.0, "at least 0, got -1"),
        ("active_variance", math.inf, "finite, got inf"),
        ("sap_penalty", 0.0, "greater than 0, got 0"),
        ("logistic_penalty", math.inf, "finite, got inf"),
        ("irs_quantile", 1.5, r"in \(0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be {limit}"):
            ScoreSettings(**{name: value})
    with pytest.raises(ValueError, match="no score 'migg'"):
        score_table(table, names=["migg"])


def test_the_suite_has_each_score_with_its_spread():
    table = make("noisy")
    settings = ScoreSettings(num_train=400, num_test=200, resamplings=3, seed=4)
    names = ["mig", "factor_vae_score", "active_units", "total_correlation"]
    found = score_table(table, settings, names=names)
    assert list(found.values) == names
    assert found.values["mig"] == mig(table, num_train=400, seed=4)
    assert found.values["active_units"] == active_units(table.codes) == 3
    draws = [
        mig(table.resampled(np.random.default_rng(seed)), num_train=400, seed=seed)
        for seed in (5, 6, 7)
    ]
    assert found.spread["mig"] == pytest.approx(np.std(draws, ddof=1))
    assert found.spread["mig"] > 0
    assert found.spread["active_units"] == 0
    assert not found.skipped
    assert found.samples["mig"] == {"rows": 400}
    assert found.samples["active_units"] == {"rows": 600}
    batches = {"rows": 600, "train_batches": 400, "test_batches": 200, "variance_rows": 600}
    assert found.samples["factor_vae_score"] == batches
    redundant = score_table(make("redundant"), names=["total_correlation", "mig"])
    assert "infinite" in redundant.skipped["total_correlation"]
    assert list(redundant.values) == ["mig"]
    alone = score_table(CodeTable(table.codes, None), settings)
    assert list(alone.values) == [
        "active_units",
        "total_correlation",
        "pairwise_mutual_information",
    ]


def test_each_setting_reaches_its_score():
    table = make("noisy")
    quick = {"num_train": 400, "num_test": 200, "resamplings": 0}
    for key, name, value, score, option in (
        ("factor_vae_score", "factor_vae_least_std", 100.0, factor_vae_score, "least_std"),
        ("factor_vae_score", "factor_vae_rows", 3, factor_vae_score, "num_rows"),
        ("sap", "sap_penalty", 1e-5, sap, "penalty"),
        ("irs", "irs_quantile", 0.5, irs, "quantile"),
        ("beta_vae_score", "logistic_penalty", 1e6, beta_vae_score, "penalty"),
        ("explicitness", "logistic_penalty", 1e6, explicitness, "penalty"),
    ):
        found = score_table(table, ScoreSettings(**quick, **{name: value}), names=[key])
        counts = {"num_train": 400} | ({} if key == "irs" else {"num_test": 200})
        assert found.values[key] == score(table, **counts, **{option: value})
        assert found.values[key] != score(table, **counts)
    found = score_table(
        table, ScoreSettings(**quick, active_variance=100.0), names=["active_units"]
    )
    assert found.values["active_units"] == 0
    found = score_table(table, ScoreSettings(**quick, dci_stages=3), names=["dci"])
    assert list(found.values.values()) == list(
        dci(table, num_train=400, num_test=200, num_stages=3)[:3]
    )


def test_the_documented_settings_are_the_defaults():
    page = Path(__file__).resolve().parents[3] / "docs" / "disentanglement.md"
    block = page.read_text().partition("```text\nscores:\n")[2].partition("```")[0]
    told = yaml.safe_load(block)
    assert told.keys() - {"names", "layer"} == ScoreSettings().as_dict().keys()
    assert {name: told[name] for name in ScoreSettings().as_dict()} == ScoreSettings().as_dict()


def test_few_rows_are_divided_and_said():
    table = make("noisy")
    found = score_table(table, ScoreSettings(resamplings=0), names=["dci", "sap", "mig", "irs"])
    parts = {"train_rows": 400, "test_rows": 200}
    assert found.samples["dci_disentanglement"] == found.samples["sap"] == parts
    assert found.samples["dci_completeness"] == parts
    assert found.samples["mig"] == found.samples["irs"] == {"rows": 600}
    assert tuple(map(len, table.split(10_000, 5_000, np.random.default_rng(0)))) == (400, 200)


def test_what_varies_by_rounding_alone_is_constant():
    table = make("noisy")
    codes = table.codes.copy()
    codes[:, 0] = 1e3 + 1e-12 * codes[:, 0]
    constant = codes.copy()
    constant[:, 0] = codes[0, 0]
    quick = ScoreSettings(num_train=400, num_test=200, resamplings=0)
    found = score_table(CodeTable(codes, table.factors), quick)
    expected = score_table(CodeTable(constant, table.factors), quick)
    assert found.values == pytest.approx(expected.values)
    # A few values of float32 apart is kept.
    single = 1e3 + np.arange(600, dtype=np.float32)[:, None] % 2 * np.float32(2e-3)
    assert len(np.unique(CodeTable(single, None).codes)) == 2
    last_bit = 1 + np.arange(600, dtype=np.float32)[:, None] % 2 * np.finfo(np.float32).eps
    for rows in (last_bit, 1e3 + 1e-12 * table.codes, 1e-300 * table.codes):
        with pytest.raises(ValueError, match="codes are constant"):
            CodeTable(rows, None)


def test_codes_that_are_too_large_are_refused():
    table = make("noisy")
    codes = table.codes.copy()
    codes[3, 1] = -1e200
    with pytest.raises(ValueError, match=r"codes\[:, 1\] has a value of size 1e\+200"):
        CodeTable(codes, table.factors)


def test_udr_spread_is_over_images():
    rng = np.random.default_rng(0)
    codes = [rng.normal(size=(400, 2)) for _ in range(2)]
    codes.append(codes[0] + rng.normal(size=(400, 2)))
    found = udr_spread(codes, correlation="spearman", resamplings=3, seed=1)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(3):
        rows = rng.integers(400, size=400)
        drawn.append(udr([each[rows] for each in codes], correlation="spearman"))
    np.testing.assert_allclose(found, np.std(drawn, axis=0, ddof=1))
    assert (found > 0).all()
    with pytest.raises(ValueError, match="resamplings must be at least 2, got 0"):
        udr_spread(codes, resamplings=0)
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        udr_spread(codes[:1])
    with pytest.raises(ValueError, match="correlation must be lasso or spearman"):
        udr_spread(codes, correlation="pearson")


def test_udr_of_few_images_is_known_where_its_spread_may_not_be():
    codes = [np.random.default_rng(seed).normal(size=(3, 2)) for seed in (0, 1)]
    # With these draws one has the same image three times.
    assert np.isnan(udr_spread(codes, correlation="spearman", resamplings=2, seed=0)).all()
    found = udr_spread(codes, correlation="spearman", resamplings=30, seed=0)
    assert (found > 0).all()


def test_udr_refuses_runs_on_other_images(tmp_path):
    codes, means = make("noisy").codes, np.random.default_rng(0).random((2, 600))
    for number, mean in enumerate((means[0], 4 * means[0] - 2, means[1])):
        (tmp_path / str(number)).mkdir()
        content = {"codes": codes, "index": np.arange(600), "image_mean": mean}
        np.savez(tmp_path / str(number) / "codes.npz", **content)
    first, normalised, other = (tmp_path / str(number) for number in range(3))
    assert len(udr_of_runs([first, normalised])) == 2
    with pytest.raises(ValueError, match=r"0 and .*2 were tested on other images"):
        udr_of_runs([first, other])


def test_udr_of_runs(tmp_path):
    codes = make("noisy").codes
    for number, index in enumerate((np.arange(600), np.arange(600)[::-1], np.arange(100, 600))):
        (tmp_path / str(number)).mkdir()
        content = {"codes": codes[index], "index": index, "kl_per_latent": np.ones(3)}
        np.savez(tmp_path / str(number) / "codes.npz", **content)
    runs = [tmp_path / str(number) for number in range(3)]
    found = udr_of_runs(runs)
    same = udr([codes[100:]] * 3, [np.ones(3)] * 3)
    assert list(found) == [str(run) for run in runs]
    assert [run.udr for run in found.values()] == pytest.approx(same.tolist())
    spread = udr_spread([codes[100:]] * 3, [np.ones(3)] * 3)
    assert [run.std for run in found.values()] == pytest.approx(spread.tolist())
    quick = udr_of_runs(runs, correlation="spearman", resamplings=0)
    assert min(run.udr for run in quick.values()) > 0.9
    assert all(np.isnan(run.std) for run in quick.values())
    with pytest.raises(ValueError, match=r"codes\.npz does not exist"):
        udr_of_runs([*runs, tmp_path])
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        udr_of_runs(runs[:1])
    dead = udr([codes, codes], [np.ones(3), np.zeros(3)])
    assert dead.tolist() == [0, 0]
    with pytest.raises(ValueError, match="same images for all models, got 600, 500 rows"):
        udr([codes, codes[:500]])

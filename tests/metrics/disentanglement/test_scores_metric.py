import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pellucid.metrics.disentanglement import DisentanglementScores, ScoreSettings, score_table
from tests.metrics.disentanglement.representations import make

QUICK = ScoreSettings(num_train=400, num_test=200, resamplings=2)
NAMES = ["mig", "factor_vae_score", "active_units"]


def tensors():
    table = make("noisy")
    return torch.tensor(table.codes).float(), torch.tensor(table.factors).long()


def metric(**options):
    return DisentanglementScores(3, 600, 3, **({"settings": QUICK, "names": NAMES} | options))


def fill(scores, rows, size=70):
    codes, factors = tensors()
    kl = torch.arange(3.0).expand(600, 3) + torch.arange(600).unsqueeze(1) / 600
    for part in rows.split(size):
        scores.update(codes[part], factors[part], part, kl[part])
    return scores


def test_batches_order_and_repeated_images_do_not_matter():
    codes, factors = tensors()
    expected = score_table(metric_table(codes, factors), QUICK, names=NAMES)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    for rows in (torch.arange(600), torch.cat([order, order[:50]])):
        scores = fill(metric(), rows)
        found = scores.compute()
        assert {k: float(v) for k, v in found.items()} == pytest.approx(expected.values)
        assert scores.spread == pytest.approx(expected.spread)
        assert scores.rows["index"].tolist() == list(range(600))
        np.testing.assert_array_equal(scores.rows["codes"], codes.numpy())
        np.testing.assert_allclose(scores.rows["kl_per_latent"], np.arange(3) + 599 / 1200)
        assert scores.samples["mig"] == {"rows": 400}
    # Of 600 values that are even from 0 to 1, whatever the latent.
    many = fill(metric(settings=ScoreSettings(num_train=9, num_test=9, resamplings=900)), order)
    many.names = []
    many.compute()
    assert many.kl_spread == pytest.approx([(1 / 12 / 600) ** 0.5] * 3, rel=0.1)
    last = fill(metric(each_epoch=True), order)
    last.compute()
    assert last.kl_spread is None
    again = pickle.loads(pickle.dumps(scores))
    assert {k: float(v) for k, v in again.compute().items()} == pytest.approx(expected.values)


def metric_table(codes, factors):
    from pellucid.metrics.disentanglement import CodeTable

    return CodeTable(codes.numpy(), factors)


def on_each_process(number):
    rank = dist.get_rank()
    # As a distributed sampler has it: every other image, and the first ones twice.
    rows = torch.arange(rank, 600, 2)
    scores = metric()
    if number or rank:
        fill(scores, torch.cat([rows, torch.arange(10)]) if number else torch.arange(600))
    found = {key: float(value) for key, value in scores.compute().items()}
    return found, scores.spread, scores.rows["codes"], scores.rows["kl_per_latent"]


@pytest.mark.ddp
@pytest.mark.parametrize("number", [0, 1], ids=["one sees none", "both"])
def test_two_processes_are_as_one(run_on_two, number):
    whole = fill(metric(), torch.arange(600))
    expected = {key: float(value) for key, value in whole.compute().items()}
    for found, spread, codes, kl in run_on_two(on_each_process, number):
        assert found == expected
        assert spread == whole.spread
        np.testing.assert_array_equal(codes, whole.rows["codes"])
        np.testing.assert_allclose(kl, whole.rows["kl_per_latent"], rtol=1e-6)


def test_of_a_large_split_an_even_share_is_kept():
    codes, factors = tensors()
    scores = metric(max_rows=150)
    # Half of the images, twice, in any order: each is known by its index.
    for part in torch.arange(600).flip(0).split(64):
        scores.update(codes[part], factors[part], part)
    scores.compute()
    index = scores.rows["index"]
    assert len(index) == len(set(index.tolist())) == 150
    np.testing.assert_array_equal(scores.rows["codes"], codes.numpy()[index])
    assert "kl_per_latent" not in scores.rows
    # Every value of every factor is there about as often as in the whole.
    counts = [np.bincount(factors.numpy()[index, k]) / 150 for k in range(3)]
    for k, count in enumerate(counts):
        np.testing.assert_allclose(count, 1 / (3, 4, 5)[k], atol=0.06)


def test_images_without_an_index_are_numbered():
    codes, factors = tensors()
    scores = metric()
    for part in torch.arange(600).split(100):
        scores.update(codes[part], factors[part])
    expected = fill(metric(), torch.arange(600)).compute()
    assert scores.compute() == expected
    scores.reset()
    assert scores.compute() == {}
    assert scores.skipped["mig"] == "needs images, got 0"


def test_each_epoch_has_what_is_quick():
    scores = fill(metric(names=None, each_epoch=True), torch.arange(600))
    # Six hundred are too few for factors.
    assert scores.compute().keys() == {"active_units", "total_correlation"}
    assert scores.score_keys() == ["mig", "active_units", "total_correlation"]
    assert not scores.spread
    codes, factors = (torch.cat([x, x]) for x in tensors())
    large = DisentanglementScores(3, 1200, 3, settings=QUICK, each_epoch=True)
    large.update(codes, factors, torch.arange(1200))
    assert large.compute().keys() == {"mig", "active_units", "total_correlation"}


def test_a_representation_that_is_none():
    codes, factors = tensors()
    scores = metric()
    scores.update(torch.ones_like(codes), factors, torch.arange(600))
    assert scores.compute() == {"active_units": 0}
    assert "constant" in scores.skipped["mig"]
    scores.reset()
    codes[7, 1] = torch.nan
    scores.update(codes, factors, torch.arange(600))
    assert scores.compute() == {}
    assert "codes[:, 1] has 1 values of 600 that are not finite" in scores.skipped["mig"]


def test_wrong_input():
    codes, factors = tensors()
    with pytest.raises(ValueError, match="index must be from 0 to 599, got 0 to 600"):
        metric().update(codes[:2], factors[:2], torch.tensor([0, 600]))
    with pytest.raises(ValueError, match=r"factors must be \(B, 3\), got None"):
        metric().update(codes)
    with pytest.raises(ValueError, match="codes"):
        metric().update(codes[:, :2], factors)
    with pytest.raises(ValueError, match="no score 'mgi'"):
        metric(names=["mgi"])
    with pytest.raises(ValueError, match="num_codes must be at least 1, got 0"):
        DisentanglementScores(0, 10)

"""The cache of frozen features: what is computed, and when nothing is kept."""

import pickle

import pytest
import torch
from torch import Tensor

from pellucid.models.layers.feature_cache import FeatureCache


class Images:
    """A data set of some length; each one is its own."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


class Frozen:
    """Doubles images and counts them."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, image: Tensor) -> Tensor:
        self.images += len(image)
        return image * 2


def test_each_image_is_computed_once() -> None:
    images, frozen, cache = torch.randn(10, 2, 3), Frozen(), FeatureCache()
    train = Images(10)
    for order in ([3, 1, 4], [1, 5, 3], [9, 5], [3, 3, 1]):
        index = torch.tensor(order)
        features = cache.get(train, index, images[index], frozen)
        assert torch.equal(features, images[index] * 2)
    assert frozen.images == 5


def test_data_sets_do_not_mix() -> None:
    frozen, cache = Frozen(), FeatureCache()
    index = torch.tensor([0])
    train, val = Images(1), Images(1)
    first = cache.get(train, index, torch.ones(1, 1), frozen)
    second = cache.get(val, index, torch.full((1, 1), 5.0), frozen)
    assert (first.item(), second.item()) == (2.0, 10.0)
    cache.clear()
    assert cache.get(val, index, torch.ones(1, 1), frozen).item() == 2.0


def test_features_go_with_their_data_set() -> None:
    cache, index = FeatureCache(), torch.tensor([0])
    train = Images(1)
    cache.get(train, index, torch.ones(1, 1), Frozen())
    assert train in cache
    assert len(cache._features) == 1
    del train
    assert len(cache._features) == 0


def test_a_copy_starts_empty() -> None:
    cache, train = FeatureCache(limit_gib=3.0), Images(1)
    cache.get(train, torch.tensor([0]), torch.ones(1, 1), Frozen())
    again = pickle.loads(pickle.dumps(cache))
    assert again.limit_gib == 3.0
    assert train not in again


def test_what_needs_too_much_memory_is_not_kept() -> None:
    frozen, cache = Frozen(), FeatureCache(limit_gib=1e-6)
    index, train = torch.tensor([0]), Images(1000)
    for _ in range(2):
        cache.get(train, index, torch.ones(1, 1000), frozen)
    assert frozen.images == 2
    assert train not in cache


def test_what_is_not_kept_is_said_once_for_each_data_set(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cache, first, second = FeatureCache(limit_gib=1e-6), Images(1000), Images(2000)
    for dataset in (first, first, second, first, second):
        cache.get(dataset, torch.tensor([0]), torch.ones(1, 1000), Frozen())
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(" need")[0] for text in said] == [
        "frozen features of 1000 images",
        "frozen features of 2000 images",
    ]


def test_all_data_sets_share_the_limit() -> None:
    # 100 images of 100 floats each: 40 kB a data set, of 100 kB.
    cache, frozen, index = FeatureCache(limit_gib=1e5 / 2**30), Frozen(), torch.tensor([0])
    train, val, test = Images(100), Images(100), Images(100)
    for dataset in (train, val, test):
        cache.get(dataset, index, torch.ones(1, 100), frozen)
    assert [dataset in cache for dataset in (train, val, test)] == [True, True, False]
    del train, dataset
    cache.get(test, index, torch.ones(1, 100), frozen)
    assert test in cache


def test_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="limit_gib must be greater than 0, got 0"):
        FeatureCache(0)

"""Splits, seeds, sampling and loaders that all data modules share."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from pellucid.batch import check_batch
from pellucid.datamodules.base import EpochSampler, ImageDataModule, SeededDataset

LENGTHS = {"train": 13, "val": 5, "test": 4, "all": 22}


class Noise(Dataset):
    """Items whose images are random, as an augmentation makes them."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {
            "image": torch.rand(3, 4, 4),
            "label": torch.tensor(index % 2),
            "index": torch.tensor(index),
        }


class NoiseModule(ImageDataModule):
    augments = True
    made = 0

    def make_dataset(self, split):
        self.made += 1
        return Noise(LENGTHS[split])

    @property
    def class_names(self):
        return ("even", "odd")


def epoch(loader, number):
    """All images of an epoch by index, and the order they came in."""
    loader.sampler.set_epoch(number)
    images, order = {}, []
    for batch in loader:
        order += batch["index"].tolist()
        images |= dict(zip(batch["index"].tolist(), batch["image"], strict=True))
    return images, order


def test_the_shuffle_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(50, seed)
        sampler.set_epoch(epoch)
        torch.manual_seed(torch.seed())
        return [position - epoch * 50 for position in sampler]

    assert order(3, 7) == order(3, 7)
    assert sorted(order(3, 7)) == list(range(50))
    assert len({tuple(order(s, e)) for s in range(4) for e in range(4)}) == 16
    assert len(EpochSampler(50)) == 50


def test_an_item_is_a_function_of_seed_epoch_and_index():
    first, second = SeededDataset(Noise(10), 1), SeededDataset(Noise(10), 2)
    torch.manual_seed(0)
    before = first[34]["image"]
    torch.rand(5)
    assert torch.equal(before, first[34]["image"])
    assert first[34]["index"] == 4
    others = [first[i]["image"] for i in range(40) if i != 34] + [second[34]["image"]]
    assert not any(torch.equal(before, other) for other in others)


def test_an_item_leaves_the_random_state_as_it_was():
    dataset = SeededDataset(Noise(10))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _ = dataset[3]
    assert torch.equal(expected, torch.rand(3))


def test_augmentation_and_order_do_not_depend_on_the_workers():
    alone = NoiseModule(4, batch_size=4, seed=1).train_dataloader()
    shared = NoiseModule(4, batch_size=4, seed=1, num_workers=2).train_dataloader()
    for number in (0, 3):
        images, order = epoch(alone, number)
        same_images, same_order = epoch(shared, number)
        assert order == same_order
        assert all(torch.equal(images[i], same_images[i]) for i in images)
    assert not torch.equal(epoch(alone, 0)[0][2], epoch(alone, 1)[0][2])
    assert epoch(alone, 0)[1] != epoch(alone, 1)[1]


def test_the_seed_changes_order_and_augmentation():
    (images, order), (others, other_order) = (
        epoch(NoiseModule(4, batch_size=4, seed=seed).train_dataloader(), 0) for seed in (0, 1)
    )
    assert order != other_order
    assert not torch.equal(images[order[0]], others[order[0]])


def test_the_training_seed_changes_order_and_augmentation_of_training_images_alone():
    def found(training_seed, split):
        data = NoiseModule(4, batch_size=4)
        data.training_seed = training_seed
        return epoch(data.train_dataloader(), 0) if split == "train" else data.dataset(split)[2]

    (images, order), (others, other_order) = (found(seed, "train") for seed in (0, 1))
    assert order != other_order
    assert not torch.equal(images[order[0]], others[order[0]])
    for split in ("val", "test", "all"):
        assert torch.equal(found(0, split)["image"], found(1, split)["image"])


def test_evaluation_is_in_order_and_the_same_every_time():
    data = NoiseModule(4, batch_size=3)
    for name, loader in (
        ("val", data.val_dataloader()),
        ("test", data.test_dataloader()),
        ("test", data.predict_dataloader()),
        ("all", data.dataloader("all")),
    ):
        first, second = list(loader), list(loader)
        index = torch.cat([batch["index"] for batch in first])
        assert index.tolist() == list(range(LENGTHS[name]))
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))
        for batch in first:
            check_batch(batch, ("image", "label", "index"))


class Whole(Noise):
    """Makes whole batches, and remembers of which indices."""

    def __init__(self, length):
        super().__init__(length)
        self.asked = []

    def __getitem__(self, index):
        return {"image": torch.full((3, 4, 4), float(index)), "index": torch.tensor(index)}

    def __getitems__(self, indices):
        self.asked.append(list(indices))
        index = torch.tensor(indices)
        return {"image": index.float()[:, None, None, None].expand(-1, 3, 4, 4), "index": index}


class WholeModule(NoiseModule):
    augments = False

    def make_dataset(self, split):
        return Whole(LENGTHS[split])


def test_a_data_set_that_makes_batches_is_asked_for_them():
    data = WholeModule(4, batch_size=4)
    loader = data.dataloader("all")
    batches = list(loader)
    assert data.dataset("all").dataset.asked == [batch["index"].tolist() for batch in batches]
    for batch in batches:
        items = [data.dataset("all")[i] for i in batch["index"].tolist()]
        for name, value in batch.items():
            assert torch.equal(value, torch.stack([item[name] for item in items]))
    # Positions of later epochs are those of the first.
    assert SeededDataset(Whole(10), random=False).__getitems__([3, 24])["index"].tolist() == [3, 4]
    for number in (0, 2):
        images, order = epoch(data.train_dataloader(), number)
        assert sorted(order) == sorted(images)
        assert all(float(image[0, 0, 0]) == i for i, image in images.items())


def test_worker_processes_make_the_same_batches():
    alone, shared = (WholeModule(4, batch_size=4, num_workers=n).dataloader("test") for n in (0, 2))
    for first, second in zip(alone, shared, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_items_are_made_one_by_one():
    """Each is seeded by itself."""
    data, other = WholeModule(4), SeededDataset(Whole(10), 1)
    data.augments = True
    batch = next(iter(data.dataloader("test")))
    assert batch["index"].tolist() == [0, 1, 2, 3]
    assert data.dataset("test").dataset.asked == []
    assert [item["index"].item() for item in other.__getitems__([2, 15])] == [2, 5]


def test_a_last_training_batch_of_one_image_is_left_out():
    batches = list(NoiseModule(4, batch_size=4).train_dataloader())  # 13 = 3 * 4 + 1
    assert [len(batch["image"]) for batch in batches] == [4, 4, 4]
    batches = list(NoiseModule(4, batch_size=5).train_dataloader())
    assert [len(batch["image"]) for batch in batches] == [5, 5, 3]
    batches = list(NoiseModule(4, batch_size=3).dataloader("test"))
    assert [len(batch["image"]) for batch in batches] == [3, 1]


def test_a_split_is_made_once():
    data = NoiseModule(4)
    assert data.dataset("val") is data.dataset("val")
    data.train_dataloader()
    data.train_dataloader()
    assert data.made == 2


def test_defaults_of_a_module_without_landmarks():
    data = NoiseModule(4)
    assert data.num_classes == 2
    assert data.part_names == ()
    assert data.factor_names == data.factor_sizes == ()
    assert ImageDataModule.augments is False
    assert ImageDataModule.on_device is False


def test_a_users_image_is_resized_and_normalised():
    data = NoiseModule(8)
    image = Image.fromarray(np.full((20, 30), 51, np.uint8))
    pixels = data.transform_image(image)
    expected = (torch.tensor(51 / 255) - torch.tensor(data.mean)) / torch.tensor(data.std)
    assert pixels.shape == (3, 8, 8)
    torch.testing.assert_close(pixels, expected[:, None, None].expand(3, 8, 8))


def test_a_users_image_stands_upright_on_white():
    data = NoiseModule(8)
    data.mean, data.std = (0.0,) * 3, (1.0,) * 3
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:2] = (255, 0, 0, 255)  # A red bar on top, and below it transparent black.
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 6  # To be turned clockwise: the bar is on the right.
    expected = torch.ones(3, 8, 8)
    expected[1:, :, 6:] = 0
    assert torch.equal(data.transform_image(image), expected)


@pytest.mark.parametrize("on_device", [False, True])
def test_only_memory_of_the_host_is_pinned(monkeypatch, on_device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = NoiseModule(4)
    data.on_device = on_device
    assert data.dataloader("test").pin_memory is not on_device


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        NoiseModule(**{"image_size": 4, **arguments})

"""MNIST on small files in the published format, and on the real ones where they are."""

import gzip
import hashlib
import os
import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pellucid.batch import check_batch
from pellucid.datamodules.errors import DataError
from pellucid.datamodules.mnist import MNIST

TRAIN, TEST = 60, 20


def images_of(count, start):
    generator = np.random.default_rng(start)
    images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    images[:, 0, 0] = np.arange(start, start + count)  # Which image it is.
    return images


def labels_of(count):
    return (np.arange(count) % 10).astype(np.uint8)


def idx(array):
    """The idx format: two zeros, type 8 (bytes), axes, their sizes in big endian, values."""
    sizes = b"".join(int(size).to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def published():
    return {
        "train-images-idx3-ubyte": idx(images_of(TRAIN, 0)),
        "train-labels-idx1-ubyte": idx(labels_of(TRAIN)),
        "t10k-images-idx3-ubyte": idx(images_of(TEST, 100)),
        "t10k-labels-idx1-ubyte": idx(labels_of(TEST)),
    }


def files_only(urlopen):
    """A ``urlopen`` that fails at any address but a file's."""

    def opener(request, *args, **kwargs):
        address = getattr(request, "full_url", request)
        assert address.startswith("file:"), f"asked the network for {address}"
        response = urlopen(request, *args, **kwargs)
        response.length = int(response.headers["Content-Length"])  # As answers of servers have.
        return response

    return opener


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", files_only(urllib.request.urlopen))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in published().items():
        (folder / name).write_bytes(content)
    return tmp_path


def ids(data, split):
    """Which images a split has, by their first pixels."""
    dataset = data.make_dataset(split)
    mean, std = data.mean[0], data.std[0]
    return [round(float(item["image"][0, 0, 0] * std + mean) * 255) for item in dataset]


def test_the_published_images_are_split(root):
    data = MNIST(str(root), val_share=0.25)
    train, val = ids(data, "train"), ids(data, "val")
    assert sorted(train + val) == list(range(60))
    # Six images of each digit; a quarter of them, rounded to even.
    assert [sum(i % 10 == digit for i in val) for digit in range(10)] == [2] * 10
    assert ids(data, "test") == list(range(100, 120))
    assert ids(data, "all") == [*range(60), *range(100, 120)]
    labels = [item["label"].item() for item in data.make_dataset("all")]
    assert labels == [*labels_of(60).tolist(), *labels_of(20).tolist()]
    for split, known in (("train", train), ("val", val)):
        items = list(data.make_dataset(split))
        assert [item["label"].item() for item in items] == [i % 10 for i in known]
        assert [item["index"].item() for item in items] == list(range(len(items)))


def test_the_validation_images_depend_on_their_own_seed_alone(root):
    val = ids(MNIST(str(root)), "val")
    assert ids(MNIST(str(root), seed=3), "val") == val
    assert ids(MNIST(str(root), split_seed=3), "val") != val


@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_normalised_or_from_0_to_1(root, channels):
    expected = torch.from_numpy(images_of(TEST, 100)[4]) / 255
    plain = MNIST(str(root), channels=channels, normalise=False).make_dataset("test")[4]["image"]
    assert plain.shape == (channels, 28, 28)
    assert plain.dtype == torch.float32
    assert torch.equal(plain, expected.expand(channels, 28, 28))
    data = MNIST(str(root), channels=channels)
    assert len(data.mean) == len(data.std) == channels
    normalised = data.make_dataset("test")[4]["image"]
    torch.testing.assert_close(normalised, (plain - 0.1307) / 0.3081)


def test_another_size(root):
    image = MNIST(str(root), image_size=56, normalise=False).make_dataset("test")[0]["image"]
    assert image.shape == (1, 56, 56)
    same = torch.from_numpy(images_of(TEST, 100)[0]) / 255
    # Bilinear: blocks of 2 x 2 keep the mean of the pixels around them.
    assert float(image.mean()) == pytest.approx(float(same.mean()), abs=0.01)


def test_batches(root):
    for channels in (1, 3):
        data = MNIST(str(root), channels=channels, batch_size=16)
        assert data.class_names == tuple("0123456789")
        assert data.num_classes == 10
        assert data.part_names == ()
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            for batch in loader:
                check_batch(batch, data.provides)
                assert set(batch) == data.provides
                assert batch["image"].shape[1:] == (channels, 28, 28)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 20])
def test_batches_have_the_values_of_items(root, channels, size):
    data = MNIST(str(root), channels=channels, image_size=size, batch_size=7)
    for split in ("train", "val", "test", "all"):
        items, found = list(data.make_dataset(split)), list(data.dataloader(split))
        for name in data.provides:
            together = torch.cat([batch[name] for batch in found])
            assert torch.equal(together, torch.stack([item[name] for item in items])), name


def test_worker_processes_make_the_same_batches(root):
    alone, shared = (MNIST(str(root), num_workers=n).dataloader("all") for n in (0, 2))
    for first, second in zip(alone, shared, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_index_out_of_range_ends_a_loop(root):
    dataset = MNIST(str(root)).make_dataset("test")
    assert len(list(dataset)) == 20
    with pytest.raises(IndexError, match="index 20 is not among the 20 images"):
        _ = dataset[20]
    with pytest.raises(IndexError, match="index -1"):
        _ = dataset[-1]


def test_images_stay_bytes_and_are_read_once(root, monkeypatch):
    data = MNIST(str(root))
    data.prepare_data()
    monkeypatch.setattr(data, "read", None)
    parts = [block for split in ("train", "val", "test", "all")
             for block in data.make_dataset(split).images]  # fmt: skip
    assert all(block.dtype == torch.uint8 for block in parts)
    assert len({block.data_ptr() for block in parts}) == 2


def test_a_data_set_goes_to_worker_processes_without_its_data_module(root):
    data = MNIST(str(root))
    data.trainer = lambda: None  # Which no other process could receive.
    dataset = data.dataset("val")
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[2]["image"], dataset[2]["image"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_users_image_is_prepared_like_a_test_image(root, channels):
    data = MNIST(str(root), channels=channels)
    image = Image.fromarray(images_of(TEST, 100)[7])
    expected = data.make_dataset("test")[7]["image"]
    # Greys come back from RGB within a rounding step.
    step = 1.01 / 255 / 0.3081
    torch.testing.assert_close(data.transform_image(image), expected, atol=step, rtol=0)
    large = Image.new("RGBA", (100, 60), (0, 0, 0, 0))
    white = data.transform_image(large)
    assert white.shape == (channels, 28, 28)
    torch.testing.assert_close(white.mean(), torch.tensor((1 - 0.1307) / 0.3081), atol=step, rtol=0)


# Wrong input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 2}, r"channels must be 1 \(greys\) or 3 \(colours\), got 2"),
        ({"val_share": 1.0}, "val_share must be above 0 and below 1, got 1.0"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(root, options, said):
    with pytest.raises(ValueError, match=said):
        MNIST(str(root), **options)


@pytest.mark.parametrize("name", sorted(published()))
def test_a_missing_file_is_named_and_not_fetched(root, name):
    path = root / "MNIST" / "raw" / name
    path.rename(path.with_suffix(".gz"))
    with pytest.raises(DataError, match=f"file {path} is missing; unpack MNIST to .* as root, or"):
        MNIST(str(root))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train-images-idx3-ubyte", b"", "cannot read"),
        ("t10k-images-idx3-ubyte", idx(images_of(TEST, 0))[:999], "cannot read .*MNIST/raw"),
        ("t10k-images-idx3-ubyte", idx(images_of(3, 0)), "has 3 images and 20 labels, the largest"),
        ("train-labels-idx1-ubyte", idx(labels_of(60) + 1), "60 labels, the largest 10; unpack"),
        ("train-images-idx3-ubyte", idx(labels_of(60)), r"should have 3 dimension.*; unpack MNIST"),
    ],
)
def test_broken_files_are_found_before_training(root, name, content, said):
    (root / "MNIST" / "raw" / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        MNIST(str(root)).prepare_data()


def test_it_is_fetched_when_asked_for(tmp_path, monkeypatch):
    """By torchvision's own code, from files in place of its servers."""
    server = tmp_path / "server"
    server.mkdir()
    resources = []
    for name, _ in datasets.MNIST.resources:
        content = gzip.compress(published()[name.removesuffix(".gz")])
        (server / name).write_bytes(content)
        resources.append((name, hashlib.md5(content, usedforsecurity=False).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server.as_uri()}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"file .* is missing"):
        MNIST(str(root))
    data = MNIST(str(root), download=True)
    assert not root.exists()
    data.prepare_data()
    assert ids(data, "test") == list(range(100, 120))
    for file in server.iterdir():
        file.unlink()
    # What is there is not fetched again.
    assert ids(MNIST(str(root), download=True), "test") == list(range(100, 120))
    assert ids(MNIST(str(root)), "test") == list(range(100, 120))


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/"])
    with pytest.raises(DataError, match=r"cannot read .*MNIST/raw .*Error downloading"):
        MNIST(str(tmp_path), download=True).prepare_data()


# The real data set


def real_root():
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("PELLUCID_TEST_DATA", beside)) / "mnist"
    if not root.is_dir():
        pytest.skip(f"MNIST is not at {root}; set PELLUCID_TEST_DATA to the data's folder")
    return root


def test_the_real_files():
    data = MNIST(str(real_root()))
    sizes = {split: len(data.make_dataset(split)) for split in ("train", "val", "test", "all")}
    assert sizes["train"] + sizes["val"] == 60_000
    assert sizes["val"] == pytest.approx(6000, abs=5)
    assert (sizes["test"], sizes["all"]) == (10_000, 70_000)
    images, labels = data.read(True)
    assert torch.bincount(labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842),
        *(5421, 5918, 6265, 5851, 5949),
    ]
    values = torch.bincount(images.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = float((values * levels).sum() / values.sum())
    deviation = float((values * (levels - mean) ** 2).sum() / values.sum()) ** 0.5
    assert [mean, deviation] == pytest.approx([data.mean[0], data.std[0]], abs=5e-5)
    check_batch(next(iter(data.train_dataloader())), data.provides)

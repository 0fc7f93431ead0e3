"""CIFAR-10 on small files in the published format; torchvision checks their sums as ever."""

import hashlib
import io
import pickle
import tarfile
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from pellucid.batch import check_batch
from pellucid.datamodules.cifar10 import CIFAR10
from pellucid.datamodules.errors import DataError
from tests.datamodules.test_mnist import files_only

NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
PER_BATCH = 20


def images_of(batch):
    """(20, 32, 32, 3) uint8; the first red value says which image it is."""
    generator = np.random.default_rng(batch)
    images = generator.integers(0, 256, (PER_BATCH, 32, 32, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(PER_BATCH) + batch * PER_BATCH
    return images


def published():
    """Pickles as the authors wrote them: rows of 1024 reds, 1024 greens, 1024 blues."""
    files = {}
    for batch, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = images_of(batch).transpose(0, 3, 1, 2).reshape(PER_BATCH, 3072)
        labels = [i % 10 for i in range(PER_BATCH)]
        files[name] = pickle.dumps({"data": rows, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": NAMES.split()})
    return files


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """torchvision's own checks, with the sums of the small files; and no network."""
    source, files = datasets.CIFAR10, published()
    for attribute in ("train_list", "test_list"):
        sums = [[name, md5(files[name])] for name, _ in getattr(source, attribute)]
        monkeypatch.setattr(source, attribute, sums)
    monkeypatch.setattr(source, "meta", source.meta | {"md5": md5(files["batches.meta"])})
    monkeypatch.setattr(urllib.request, "urlopen", files_only(urllib.request.urlopen))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in published().items():
        (folder / name).write_bytes(content)
    return tmp_path


def ids(data, split):
    dataset = data.make_dataset(split)
    values = [float(item["image"][0, 0, 0]) * data.std[0] + data.mean[0] for item in dataset]
    return [round(255 * value) for value in values]


def test_the_published_images_are_split(root):
    data = CIFAR10(str(root))
    train, val = ids(data, "train"), ids(data, "val")
    assert sorted(train + val) == list(range(100))
    # Ten images of each class; a tenth of them.
    assert sorted(i % 10 for i in val) == list(range(10))
    assert ids(data, "test") == list(range(100, 120))
    assert ids(data, "all") == list(range(120))
    for split, known in (("train", train), ("test", range(100, 120)), ("all", range(120))):
        labels = [item["label"].item() for item in data.make_dataset(split)]
        assert labels == [i % 10 for i in known]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 20])
def test_batches_have_the_values_of_items(root, channels, size):
    data = CIFAR10(str(root), channels=channels, image_size=size, batch_size=7)
    for split in ("train", "val", "test", "all"):
        items, found = list(data.make_dataset(split)), list(data.dataloader(split))
        for name in data.provides:
            together = torch.cat([batch[name] for batch in found])
            assert torch.equal(together, torch.stack([item[name] for item in items])), name


def test_colours_stay_in_their_places(root):
    data = CIFAR10(str(root), normalise=False)
    image = data.make_dataset("test")[6]["image"]
    expected = torch.from_numpy(images_of(5)[6]).permute(2, 0, 1) / 255
    assert torch.equal(image, expected)
    data = CIFAR10(str(root))
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    torch.testing.assert_close(data.make_dataset("test")[6]["image"], (expected - mean) / std)


def test_greys_are_the_luma(root):
    data = CIFAR10(str(root), channels=1, normalise=False)
    image = data.make_dataset("test")[6]["image"]
    luma = images_of(5)[6].astype(float) @ [0.299, 0.587, 0.114] / 255
    assert image.shape == (1, 32, 32)
    torch.testing.assert_close(image[0].double(), torch.from_numpy(luma), atol=1.5 / 255, rtol=0)
    data = CIFAR10(str(root), channels=1)
    assert len(data.mean) == len(data.std) == 1
    torch.testing.assert_close(
        data.make_dataset("test")[6]["image"], (image - data.mean[0]) / data.std[0]
    )
    # The mean grey is the luma of the mean colour.
    colour = CIFAR10(str(root)).mean
    assert data.mean[0] == pytest.approx(np.dot(colour, [0.299, 0.587, 0.114]), abs=5e-4)


def test_batches(root):
    for channels, size in ((1, 32), (3, 32), (3, 48)):
        data = CIFAR10(str(root), channels=channels, image_size=size, batch_size=16)
        assert data.class_names == tuple(NAMES.split())
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            for batch in loader:
                check_batch(batch, data.provides)
                assert set(batch) == data.provides
                assert batch["image"].shape[1:] == (channels, size, size)


def test_images_stay_bytes(root):
    (block,) = CIFAR10(str(root)).make_dataset("train").images
    assert block.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_a_users_image_is_prepared_like_a_test_image(root, channels):
    data = CIFAR10(str(root), channels=channels)
    image = Image.fromarray(images_of(5)[3])
    assert torch.equal(data.transform_image(image), data.make_dataset("test")[3]["image"])


# Wrong input


def test_arguments_out_of_range_are_named(root):
    with pytest.raises(ValueError, match=r"channels must be 1 \(greys\) or 3 \(colours\), got 4"):
        CIFAR10(str(root), channels=4)
    with pytest.raises(ValueError, match="val_share must be above 0 and below 1, got 0"):
        CIFAR10(str(root), val_share=0)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_missing_and_changed_files_are_named_and_not_fetched(root, name):
    path = root / "cifar-10-batches-py" / name
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"cannot read .*corrupted.*; unpack CIFAR-10 there again"):
        CIFAR10(str(root)).prepare_data()
    path.unlink()
    with pytest.raises(DataError, match=f"file {path} is missing; unpack CIFAR-10 to .* as root"):
        CIFAR10(str(root))


def test_it_is_fetched_when_asked_for(tmp_path, monkeypatch):
    """By torchvision's own code, from a file in place of its server."""
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in published().items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(datasets.CIFAR10, "url", archive.as_uri())
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"file .* is missing"):
        CIFAR10(str(root))
    data = CIFAR10(str(root), download=True)
    assert not root.exists()
    data.prepare_data()
    archive.unlink()
    assert ids(data, "test") == list(range(100, 120))
    assert ids(CIFAR10(str(root)), "test") == list(range(100, 120))

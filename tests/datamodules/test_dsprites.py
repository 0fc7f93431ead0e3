"""dSprites as a data module: splits, batches, the published file, and pictures on the device."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image

from pellucid.batch import check_batch
from pellucid.datamodules import dsprites_file
from pellucid.datamodules.dsprites import DSprites, _all_pictures, draw
from pellucid.datamodules.dsprites_file import FILE
from pellucid.datamodules.dsprites_rendering import COUNT, FACTOR_SIZES, factors_of, render, unpack
from pellucid.datamodules.errors import DataError

SMALL = 300
"""Pictures in a file that stands in for the published one."""


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(folder))
    return folder


def small(**options):
    return DSprites(**{"train_size": 70, "val_size": 9, "test_size": 20, **options})


def numbers(data, split):
    factors = torch.stack([item["factors"] for item in data.make_dataset(split)])
    return data.index_of(factors).tolist()


def same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name


def test_it_says_what_it_has():
    data = DSprites()
    assert data.provides == {"image", "label", "factors", "index"}
    assert tuple(data.class_names) == ("square", "ellipse", "heart")
    assert data.num_classes == 3
    assert tuple(data.factor_names) == ("shape", "scale", "orientation", "x", "y")
    assert tuple(data.factor_sizes) == (3, 6, 40, 32, 32)
    assert (tuple(data.mean), tuple(data.std)) == ((0.0,), (1.0,))
    sizes = [len(data.dataset(split)) for split in ("train", "val", "test", "all")]
    assert sizes == [737_280, 2000, 10_000, 737_280]


def test_images_are_those_of_their_factors():
    data = small(batch_size=16)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            check_batch(batch, data.provides)
            assert set(batch) == data.provides
            assert batch["image"].shape[1:] == (1, 64, 64)
            assert batch["image"].unique().tolist() == [0, 1]
            assert torch.equal(batch["image"], unpack(render(batch["factors"])))
            assert torch.equal(batch["image"], data.images_of(batch["factors"]))
            assert torch.equal(batch["label"], batch["factors"][:, 0])


def test_splits_share_no_image_unless_training_has_all():
    data = small()
    found = {split: numbers(data, split) for split in ("train", "val", "test")}
    every = [number for split in found.values() for number in split]
    assert len(set(every)) == len(every) == 99
    # They come from everywhere.
    assert len(factors_of(torch.tensor(every))[:, 2].unique()) > 25
    whole = DSprites(val_size=9, test_size=20)
    assert numbers(whole, "test") == found["test"]
    positions = [0, 5, COUNT - 1]
    for split in ("train", "all"):
        dataset = whole.dataset(split)
        items = [dataset[i]["factors"] for i in positions]
        assert data.index_of(torch.stack(items)).tolist() == positions


def test_the_choice_of_images_depends_on_its_own_seed_alone():
    test = numbers(small(), "test")
    assert numbers(small(seed=4, train_size=3), "test") == test
    assert numbers(small(split_seed=4), "test") != test


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": 32},
        {"channels": 3},
        {"num_workers": 2},
        {"on_device": True},
        {"on_device": True, "image_size": 32, "channels": 3},
    ],
)
def test_batches_have_the_values_of_items(options, monkeypatch):
    data = small(batch_size=8, **options)
    if data.on_device:  # All that they hold, of few pictures.
        keep(monkeypatch, data)
    if data.channels == 3:
        data.use_normalisation((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    dataset = data.dataset("train")
    for batch in data.train_dataloader():
        items = [dataset[i] for i in batch["index"].tolist()]
        same(batch, {name: torch.stack([item[name] for item in items]) for name in batch})
    items = [data.dataset("test")[i]["image"] for i in range(20)]
    found = torch.cat([batch["image"] for batch in data.test_dataloader()])
    assert torch.equal(found, torch.stack(items))


def keep(monkeypatch, data):
    """Have the accelerator's copy hold the splits' pictures only; drawing all takes seconds."""

    def all_pictures(pictures):
        packed = torch.zeros(COUNT, 64, 8, dtype=torch.uint8)  # Untouched pages take no memory.
        for split in ("train", "val", "test"):
            own = torch.tensor(numbers(data, split))
            packed[own] = pictures(own)
        return packed

    monkeypatch.setattr("pellucid.datamodules.dsprites._all_pictures", all_pictures)


def test_pictures_on_the_device_are_gathered_once_and_also_during_inference(monkeypatch):
    data, calls = small(on_device=True), []
    monkeypatch.setattr(
        "pellucid.datamodules.dsprites._all_pictures",
        lambda pictures: calls.append(1) or torch.full((COUNT, 1, 8), 255, dtype=torch.uint8),
    )
    with torch.inference_mode():
        next(iter(data.val_dataloader()))
    image = next(iter(data.train_dataloader()))["image"]
    weight = torch.ones(1, requires_grad=True)
    (image * weight).sum().backward()
    assert float(weight.grad) == image.numel()  # All ones.
    assert data.images_of(torch.zeros(2, 5, dtype=torch.int64)).sum() == 2 * 8 * 8
    assert len(calls) == 1


def test_all_pictures_together_are_packed(monkeypatch):
    monkeypatch.setattr("pellucid.datamodules.dsprites.COUNT", 5000)
    monkeypatch.setattr("pellucid.datamodules.dsprites._BLOCK", 1536)
    assert torch.equal(_all_pictures(draw), draw(torch.arange(5000)))


def test_smaller_images_are_means_of_four_pixels():
    factors = factors_of(torch.arange(0, COUNT, 9001))
    large, little = DSprites().images_of(factors), DSprites(image_size=32).images_of(factors)
    assert little.shape == (len(factors), 1, 32, 32)
    expected = sum(large[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    assert torch.equal(little, expected)


def test_channels_are_repeated_and_normalised():
    factors = factors_of(torch.tensor([0, COUNT - 1]))
    grey, data = DSprites().images_of(factors), DSprites(channels=3)
    assert torch.equal(data.images_of(factors), grey.expand(2, 3, 64, 64))
    data.use_normalisation((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    torch.testing.assert_close(data.images_of(factors), (grey - mean) / std)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64])
def test_a_users_image_is_prepared_like_a_test_image(channels, size):
    data = small(channels=channels, image_size=size)
    image = data.dataset("test")[3]["image"]
    pixels = Image.fromarray((image[0] * 255).byte().numpy())
    # Quarters are no whole bytes, and are rounded once more.
    torch.testing.assert_close(data.transform_image(pixels), image, atol=2.01 / 255, rtol=0)
    red = data.transform_image(Image.new("RGB", (100, 40), (255, 0, 0)))
    assert red.shape == (channels, size, size)
    torch.testing.assert_close(red, torch.full_like(red, 0.299), atol=0.005, rtol=0)


def test_a_data_set_goes_to_other_processes_without_the_data_module():
    data = small()
    data.trainer = lambda: None  # Which no other process could receive.
    sent = pickle.dumps(data.dataset("val"))
    assert len(sent) < 10_000
    same(pickle.loads(sent)[3], data.dataset("val")[3])


def test_an_index_out_of_range_ends_a_loop():
    dataset = small().make_dataset("val")
    assert len(list(dataset)) == 9
    for index in (9, -1):
        with pytest.raises(IndexError, match=f"index {index} is not among the 9 images"):
            _ = dataset[index]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 28}, "image_size must be 64 or 32, got 28"),
        ({"channels": 2}, r"channels must be 1 \(greys\) or 3 \(colours\), got 2"),
        ({"train_size": 0}, "train_size must be from 1 to 737280, got 0"),
        ({"test_size": COUNT + 1}, "test_size must be from 1 to 737280, got 737281"),
        ({"train_size": COUNT}, "train_size and the other sizes are 737309 images together"),
        ({"train_size": None, "test_size": COUNT}, "val_size and the other .* are 737289 images"),
        ({"on_device": True, "num_workers": 2}, "num_workers must be 0 with on_device, got 2"),
    ],
)
def test_arguments_out_of_range_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        small(**options)


# The published file


def pictures(count):
    return np.random.default_rng(0).integers(0, 2, (count, 64, 64), dtype=np.uint8)


def write_file(path, imgs, **others):
    """As published: ``imgs`` beside tables and pickled metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = np.array({"title": "dSprites"}, dtype=object)
    np.savez_compressed(path, imgs=imgs, metadata=metadata, **others)
    return path


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file of few pictures that look like no drawn ones."""
    monkeypatch.setattr(dsprites_file, "COUNT", SMALL)
    monkeypatch.setattr(dsprites_file, "_BLOCK", 128)
    classes = np.zeros((SMALL, 6), np.int64)
    return write_file(tmp_path / "data" / FILE, pictures(SMALL), latents_classes=classes)


def some(data):
    return data.images_of(factors_of(torch.arange(SMALL)))[:, 0]


@pytest.mark.parametrize("of", ["file", "folder"])
def test_the_published_pictures_are_read(published, of):
    data = DSprites(str(published if of == "file" else published.parent))
    data.prepare_data()
    expected = torch.from_numpy(pictures(SMALL)).float()
    assert torch.equal(some(data), expected)
    item = data.dataset("all")[7]
    assert torch.equal(item["image"][0], expected[7])
    copy = pickle.loads(pickle.dumps(data.dataset("all").dataset.item_pictures))
    assert torch.equal(unpack(copy(torch.tensor([7])))[0, 0], expected[7])


def test_they_are_packed_once_into_a_cache_that_runs_share(published, monkeypatch):
    expected = some(DSprites(str(published)))
    cached = list((published.parent / "pellucid_cache").glob("*.npy"))
    assert len(cached) == 1
    assert SMALL * 512 < cached[0].stat().st_size < SMALL * 512 + 256
    monkeypatch.setattr(dsprites_file.PublishedPictures, "_pack", None)
    assert torch.equal(some(DSprites(str(published))), expected)


@pytest.mark.parametrize("damage", ["truncated", "another", "gone"])
def test_a_cache_that_is_not_right_is_made_anew(published, damage):
    expected = some(DSprites(str(published)))
    folder = published.parent / "pellucid_cache"
    (cached,) = folder.glob("*.npy")
    if damage == "truncated":
        cached.write_bytes(cached.read_bytes()[:-1])
    elif damage == "gone":
        cached.unlink()
    else:  # Of a file that was there before.
        expected = 1 - expected
        write_file(published, 1 - pictures(SMALL), more=np.zeros(9))
    assert torch.equal(some(DSprites(str(published))), expected)
    assert len(list(folder.iterdir())) == 2  # No leftovers.


def test_the_cache_goes_where_the_user_says(published, tmp_path):
    some(DSprites(str(published), cache_dir=str(tmp_path / "elsewhere")))
    assert len(list((tmp_path / "elsewhere").glob("*.npy"))) == 1
    assert not (published.parent / "pellucid_cache").exists()


def test_the_cache_of_a_read_only_folder_is_the_users(published, user_cache):
    published.parent.chmod(0o555)
    try:
        expected = torch.from_numpy(pictures(SMALL)).float()
        assert torch.equal(some(DSprites(str(published))), expected)
    finally:
        published.parent.chmod(0o755)
    assert len(list(user_cache.rglob("*.npy"))) == 1


def test_a_file_that_is_missing_is_named(tmp_path):
    for root, missing in ((tmp_path, tmp_path / FILE), (tmp_path / "x.npz", tmp_path / "x.npz")):
        with pytest.raises(DataError, match=f"file {missing} is missing; get it from .*leave root"):
            DSprites(str(root))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(b"no zip"), "not a zip file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "cannot read"),
        (lambda path: np.savez(path, images=pictures(2)), "no item named 'imgs.npy'"),
        (lambda path: write_file(path, pictures(7)), r"its imgs are \(7, 64, 64\) of uint8, not"),
        (lambda path: write_file(path, pictures(SMALL) + 0.0), "of float64, not .* of uint8"),
        (lambda path: write_file(path, np.asfortranarray(pictures(SMALL))), "row by row"),
        (lambda path: write_file(path, 255 * pictures(SMALL)), "a pixel is 255, not 0 or 1"),
        (lambda path: write_file(path, np.array({"a": 1}, dtype=object)), r"its imgs are \(\) of"),
    ],
)
def test_a_broken_file_is_found_before_training(published, change, said):
    change(published)
    with pytest.raises(DataError, match=f"cannot read {published} .*{said}|{said}.*get it anew"):
        DSprites(str(published)).prepare_data()
    folder = published.parent / "pellucid_cache"
    assert not list(folder.iterdir())  # Nothing is left that looks like a cache.


def test_a_file_that_ends_early_is_found(published):
    whole = np.load(published)["imgs"]
    with zipfile.ZipFile(published, "w") as archive, archive.open("imgs.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (SMALL, 64, 64)}
        )
        file.write(whole[:200].tobytes())
    with pytest.raises(DataError, match="it ends in picture 200"):
        DSprites(str(published)).prepare_data()


# The real file


def test_the_real_file():
    """Nine in ten of the published pictures are drawn to the pixel."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("PELLUCID_TEST_DATA", beside)) / "dsprites" / FILE
    if not root.is_file():
        pytest.skip(f"dSprites is not at {root}; set PELLUCID_TEST_DATA to the data's folder")
    factors = torch.stack([torch.randint(size, (2000,)) for size in FACTOR_SIZES], dim=1)
    real, drawn = (DSprites(r).images_of(factors) > 0 for r in (str(root), None))
    exact = (real == drawn).flatten(1).all(1).float().mean()
    union = (real & drawn).sum((1, 2, 3)) / (real | drawn).sum((1, 2, 3))
    assert float(exact) > 0.85
    assert float(union.mean()) > 0.998

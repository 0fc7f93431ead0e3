"""Animal-Part on a miniature of the published layout, and on the real files where they are."""

import math
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import platformdirs
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.io import savemat

from pellucid.batch import check_batch
from pellucid.datamodules import animal_part
from pellucid.datamodules.animal_part import AnimalPart
from pellucid.datamodules.animal_part_files import NAMES, PART_NAMES, read_category
from pellucid.datamodules.animal_part_split import chosen, evenly_spaced
from pellucid.datamodules.base import collate
from pellucid.datamodules.crop_cache import choose_folder
from pellucid.datamodules.errors import DataError

FOX, CAT, GOLDFISH = "n02118333", "n02121808", "n01443537"
BOX = (11, 6, 100, 85)  # xmin, ymin, xmax, ymax from 1, both ends inside: 90 x 80 pixels
HEAD, LEGS = "red", "blue"


def head_of(number):
    """(x, y) in the crop's own pixels, counted from 0."""
    return 20 + 2 * number, 25 + number


def legs_of(number):
    return 60 - number, 55


def annotated(place):
    """MATLAB's (row, column) in the crop resized to 224 x 224, counted from 1."""
    x, y = place
    return np.array([[(y + 0.5) * 224 / 80 + 0.5], [(x + 0.5) * 224 / 90 + 0.5]])


def write_hdf5_parts(path, cells):
    """Cells of (centre, scale) columns, () for a part that is not there, as MATLAB 7.3 does."""
    with h5py.File(path, "w") as file:
        for field, name in enumerate(("pHW_center", "pHW_scale")):
            references = np.empty((len(cells), 1), h5py.ref_dtype)
            for i, cell in enumerate(cells):
                if cell:
                    data = file.create_dataset(f"#refs#/{name}{i}", data=cell[field].T)
                else:
                    data = file.create_dataset(f"#refs#/{name}{i}", data=np.zeros(2, np.uint64))
                    data.attrs["MATLAB_empty"] = np.uint8(1)
                references[i, 0] = data.ref
            file.create_dataset(f"truth/{name}", data=references, dtype=h5py.ref_dtype)


def write_matlab5_parts(path, cells):
    truth = np.empty((1, len(cells)), [("pHW_center", object), ("pHW_scale", object)])
    for i, cell in enumerate(cells):
        truth[0, i] = cell or (np.zeros((0, 0)), np.zeros((0, 0)))
    savemat(path, {"truth": truth})


def write_boxes(path, boxes, matlab5=False):
    keys = ("xmin", "ymin", "xmax", "ymax")
    if matlab5:
        samples = np.empty((1, len(boxes)), [("obj", object)])
        for i, box in enumerate(boxes):
            samples[0, i] = ({"bndbox": dict(zip(keys, map(float, box), strict=True))},)
        savemat(path, {"samples": samples})
        return
    with h5py.File(path, "w") as file:
        references = np.empty((len(boxes), 1), h5py.ref_dtype)
        for i, box in enumerate(boxes):
            group = file.create_group(f"#refs#/o{i}")
            for key, value in zip(keys, box, strict=True):
                group.create_dataset(f"bndbox/{key}", data=np.array([[float(value)]]))
            references[i, 0] = group.ref
        file.create_dataset("samples/obj", data=references, dtype=h5py.ref_dtype)


def write_category(root, wnid, count, matlab5=False, boxes=None, legs=True):
    """Grey images, one grey level per object, with a red head and blue legs.

    Object 1 has no annotated legs, object 2 has two heads.
    """
    images = root / "detanimalpart" / f"{wnid}_obj" / "img" / "img"
    images.mkdir(parents=True)
    for i in range(count):
        image = Image.new("RGB", (120, 100), (grey(i),) * 3)
        draw = ImageDraw.Draw(image)
        for (x, y), colour in ((head_of(i), HEAD), (legs_of(i), LEGS)):
            x, y = x + BOX[0] - 1, y + BOX[1] - 1
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        image.save(images / f"{i + 1:05d}.jpg", quality=98, subsampling=0)
    write_boxes(images.parent / "data.mat", boxes or [BOX] * count, matlab5)
    folder = root / "truth_part" / wnid
    folder.mkdir(parents=True)
    scale = np.array([[40.0], [60.0]])  # height, width
    heads = [(annotated(head_of(i)), scale) for i in range(count)]
    heads[2] = (np.tile(heads[2][0], 2), np.tile(scale, 2))
    write = write_matlab5_parts if matlab5 else write_hdf5_parts
    write(folder / "truth_part01.mat", heads)
    if legs:
        cells = [() if i == 1 else (annotated(legs_of(i)), scale) for i in range(count)]
        write(folder / "truth_part02.mat", cells)


def grey(number):
    return 60 + 6 * number


def write_negatives(root, count):
    folder = root / "neg"
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (50, 40), (0, grey(i), 0)).save(folder / f"{2 * i + 1:05d}.JPEG")


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(folder))
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    write_category(root, FOX, 20)
    write_category(root, CAT, 12, matlab5=True)
    write_negatives(root, 20)
    return root


@pytest.fixture
def root(template, tmp_path):
    return shutil.copytree(template, tmp_path / "animal-part")


def pixels(data, item):
    """(3, H, W) in [0, 255], normalisation undone."""
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return (item["image"] * std[:, None, None] + mean[:, None, None]) * 255


def spot(image, colour):
    """Centre (x, y) of the spot of a colour; None if there is none."""
    channel = {HEAD: 0, LEGS: 2}[colour]
    others = image.sum(0) - image[channel]
    weight = (image[channel] - others / 2 - 60).clamp(min=0)
    if weight.sum() < 100:
        return None
    rows, columns = torch.meshgrid(*map(torch.arange, weight.shape), indexing="ij")
    return torch.stack([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def number_of(data, item):
    """Which object of its category, or which negative, it is: by its grey level."""
    image = pixels(data, item)
    return round((image[1].median().item() - 60) / 6)


@pytest.mark.parametrize("size", [224, 96])
@pytest.mark.parametrize("category", ["fox", "domestic cat"])  # one per MATLAB format
def test_landmarks_stay_on_the_spots_they_mark(root, category, size):
    data = AnimalPart(str(root), [category], size)
    train = data.dataset("train")
    seen = 0
    for i in range(8):
        item = train[i]
        image = pixels(data, item)
        for part, colour in enumerate((HEAD, LEGS)):
            if item["part_visible"][part]:
                torch.testing.assert_close(
                    item["parts"][part], spot(image, colour), atol=0.35, rtol=0
                )
                seen += 1
    assert seen >= 12


def test_every_second_training_item_is_the_mirror_image_of_the_one_before(root):
    train = AnimalPart(str(root), ["fox"], 96).dataset("train")
    for i in range(0, 10, 2):
        item, mirrored = train[i], train[i + 1]
        assert torch.equal(item["image"].flip(-1), mirrored["image"])
        assert torch.equal(item["part_masks"].flip(-1), mirrored["part_masks"])
        visible = item["part_visible"]
        assert torch.equal(visible, mirrored["part_visible"])
        assert torch.equal(95 - item["parts"][visible, 0], mirrored["parts"][visible, 0])
        assert torch.equal(item["parts"][visible, 1], mirrored["parts"][visible, 1])


def test_part_masks_are_the_annotated_boxes(root):
    item = AnimalPart(str(root), ["fox"], 112).dataset("all")[4]
    rows, columns = item["part_masks"][0].nonzero().T
    x, y = item["parts"][0].tolist()
    # 60 x 40 pixels of the 224 crop are 30 x 20 of this one.
    assert (rows.min(), rows.max()) == (math.ceil(y - 10), math.floor(y + 10))
    assert (columns.min(), columns.max()) == (math.ceil(x - 15), math.floor(x + 15))
    assert item["part_masks"][0].sum() == len(rows.unique()) * len(columns.unique())


@pytest.mark.parametrize("category", ["fox", "domestic cat"])
def test_parts_that_are_missing_or_there_twice_are_not_visible(root, category):
    data = AnimalPart(str(root), [category], 32)
    (wnid,) = data.wnids
    # In the files themselves: an empty cell of MATLAB 7.3 reads like a place outside the crop.
    visible = read_category(root, wnid).part_visible
    assert (~visible).nonzero()[0].tolist() == [1, 2]
    every = data.dataset("all")
    assert every[0]["part_visible"].tolist() == [True, True]
    assert every[1]["part_visible"].tolist() == [True, False]
    assert every[2]["part_visible"].tolist() == [False, True]
    assert every[1]["parts"][1].tolist() == [0, 0]
    assert not every[1]["part_masks"][1].any()
    negative = every[len(every) - 1]
    assert negative["label"] == 0
    assert not negative["part_visible"].any()


def test_a_category_may_have_heads_only(tmp_path):
    write_category(tmp_path, GOLDFISH, 10, legs=False)
    write_negatives(tmp_path, 10)
    every = AnimalPart(str(tmp_path), image_size=32).dataset("all")
    assert [every[i]["part_visible"].tolist() for i in (0, 1, 2)] == [
        [True, False],
        [True, False],
        [False, False],
    ]


def test_an_unpublished_category_goes_by_its_folder(tmp_path):
    write_category(tmp_path, "n09999999", 10, legs=False)
    write_category(tmp_path, FOX, 10)
    data = AnimalPart(str(tmp_path), ["N09999999", "fox"], 32)
    assert data.class_names == ("n09999999", "fox")


def test_no_object_is_in_two_splits(root):
    data = AnimalPart(str(root), ["fox"], 32)
    found = {}
    for split in ("train", "val", "test", "all"):
        dataset = data.dataset(split)
        items = [dataset[i] for i in range(len(dataset))]
        found[split] = [(int(item["label"]), number_of(data, item)) for item in items]
        indices = [int(item["index"]) for item in items]
        # A repeated image keeps its first index; only training repeats any.
        assert split == "train" or indices == list(range(len(items)))
        for item, index in zip(items, indices, strict=True):
            assert torch.equal(item["image"], items[index]["image"])
    everything = {(label, i) for label in (0, 1) for i in range(20)}
    assert sorted(found["all"]) == sorted(everything)
    train, val, test = (set(found[split]) for split in ("train", "val", "test"))
    assert train | val | test == everything
    assert len(train) + len(val) + len(test) == len(everything)
    for split in ("val", "test"):
        assert len(found[split]) == len(set(found[split])) == 4


def test_objects_are_tested_as_they_are(root):
    data = AnimalPart(str(root), ["fox"], 96)
    test, every = data.dataset("test"), data.dataset("all")
    originals = {number_of(data, every[i]): every[i]["image"] for i in range(20)}
    for i in range(2):
        assert torch.equal(test[i]["image"], originals[number_of(data, test[i])])


def test_three_quarters_of_the_training_images_show_the_category(root):
    data = AnimalPart(str(root), ["fox"], 32)
    train = data.dataset("train")
    labels = [int(train[i]["label"]) for i in range(len(train))]
    assert (labels.count(0), labels.count(1)) == (16, 48)
    shown = [(number_of(data, train[i]), i % 2) for i in range(48)]
    assert {shown.count(entry) for entry in set(shown)} == {1, 2}
    assert len(set(shown)) == 32


def test_no_training_object_is_dropped_where_negatives_are_few(tmp_path):
    write_category(tmp_path, FOX, 20)
    write_negatives(tmp_path, 7)
    train = AnimalPart(str(tmp_path), image_size=16).dataset("train")
    assert len(train) == 2 * 16 + 5


@pytest.mark.parametrize("count", [7, 10, 20, 193, 276, 286, 500, 1000])
def test_the_split_is_the_released_codes(count):
    def matlab_round(value):
        return math.floor(value + Fraction(1, 2))

    chosen = matlab_round(Fraction(9, 10) * count)
    step = Fraction(count - 1, chosen - 1)
    assert evenly_spaced(count) == [matlab_round(1 + k * step) - 1 for k in range(chosen)]


def test_the_split_of_ten_by_hand():
    assert evenly_spaced(10) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("count", [7, 8, 11, 100])
def test_seven_objects_are_enough_for_three_splits(count):
    train, val, test = (chosen(split, count) for split in ("train", "val", "test"))
    assert sorted(train + val + test) == list(range(count))
    assert min(len(train), len(val), len(test)) > 0


def test_parts_belong_to_the_category_where_there_are_several(root):
    assert AnimalPart(str(root), image_size=16).parts_by_category
    assert not AnimalPart(str(root), ["fox"], 16).parts_by_category


def test_several_categories_are_classes_without_negatives(root):
    data = AnimalPart(str(root), image_size=32)
    assert data.class_names == ("fox", "domestic cat")
    every, train = data.dataset("all"), data.dataset("train")
    assert [int(every[i]["label"]) for i in range(len(every))] == [0] * 20 + [1] * 12
    assert len(train) == 2 * (16 + 10)
    turned = AnimalPart(str(root), [CAT, "Fox"], 32)
    assert turned.class_names == ("domestic cat", "fox")
    assert int(turned.dataset("all")[0]["label"]) == 1 - int(every[len(every) - 1]["label"])
    check_batch(collate([every[0], every[25]]), data.provides)


def test_one_category_has_two_classes_and_complete_batches(root):
    data = AnimalPart(str(root), ["domestic_cat"], 32, batch_size=8)
    assert data.class_names == ("negative", "domestic cat")
    assert data.num_classes == 2
    assert data.part_names == PART_NAMES
    for batch in data.train_dataloader():
        check_batch(batch, data.provides)


def test_small_objects_are_left_out_by_their_area(tmp_path):
    boxes = [BOX] * 10
    boxes[3] = (1, 1, 49, 51)  # 49 x 51 pixels, one less than 50 x 50
    boxes[4] = (1, 1, 25, 100)  # just 2500
    write_category(tmp_path, FOX, 10, boxes=boxes)
    objects = read_category(tmp_path, FOX)
    assert [int(path.stem) for path in objects.paths] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert objects.boxes[3].tolist() == [0, 0, 25, 100]


def test_augmentation_carries_the_landmarks_along(root):
    data = AnimalPart(str(root), ["fox"], 160, augment=True)
    assert data.augments
    train, compared = data.dataset("train"), 0
    for position in range(0, 3 * len(train), 7):
        item = train[position]
        image = pixels(data, item)
        for part, colour in enumerate((HEAD, LEGS)):
            inside = ((item["parts"][part] > 12) & (item["parts"][part] < 147)).all()
            if item["part_visible"][part] and inside:
                torch.testing.assert_close(item["parts"][part], spot(image, colour), atol=1, rtol=0)
                compared += 1
    assert compared > 15
    assert not torch.equal(train[0]["image"], train[len(train)]["image"])
    evaluated = data.dataset("all")
    assert torch.equal(evaluated[0]["image"], evaluated[len(evaluated)]["image"])


def test_without_augmentation_epochs_are_alike(root):
    train = AnimalPart(str(root), ["fox"], 32).dataset("train")
    assert torch.equal(train[1]["image"], train[len(train) + 1]["image"])


# The cache


def caches(folder):
    return sorted(path.name for path in folder.rglob("*.np[yz]"))


def forbid(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"read again: {arguments}")

    for name in ("read_category", "read_negatives", "read_rgb"):
        monkeypatch.setattr(animal_part, name, refuse)


def test_a_second_start_reads_neither_annotations_nor_images(root, monkeypatch):
    first = AnimalPart(str(root), ["fox"], 32).dataset("all")
    assert len(caches(root / "pellucid_cache")) == 4
    forbid(monkeypatch)
    second = AnimalPart(str(root), ["fox"], 32).dataset("all")
    assert len(first) == len(second)
    for i in range(len(first)):
        assert all(torch.equal(first[i][field], second[i][field]) for field in first[i])


def test_a_category_alone_and_among_others_share_a_cache(root, monkeypatch):
    AnimalPart(str(root), image_size=32).prepare_data()
    AnimalPart(str(root), ["fox"], 32).prepare_data()
    forbid(monkeypatch)
    AnimalPart(str(root), ["fox"], 32).prepare_data()
    with pytest.raises(AssertionError, match="read again"):
        AnimalPart(str(root), ["fox"], 33).prepare_data()


def test_a_changed_image_or_annotation_makes_the_cache_stale(root):
    def first_item():
        return AnimalPart(str(root), ["fox"], 32).dataset("all")[0]

    before = first_item()
    image = root / "detanimalpart" / f"{FOX}_obj" / "img" / "img" / "00001.jpg"
    Image.new("RGB", (120, 100), "white").save(image)
    changed = first_item()
    assert not torch.equal(before["image"], changed["image"])
    truth = root / "truth_part" / FOX / "truth_part01.mat"
    write_hdf5_parts(truth, [()] * 20)
    assert before["part_visible"][0]
    assert not first_item()["part_visible"][0]
    assert len(caches(root)) == 4


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_cache_is_built_again(root, suffix):
    before = AnimalPart(str(root), ["fox"], 32).dataset("all")[3]
    for path in (root / "pellucid_cache").glob(f"*{suffix}"):
        path.write_bytes(path.read_bytes()[:-100])
    after = AnimalPart(str(root), ["fox"], 32).dataset("all")[3]
    assert all(torch.equal(before[field], after[field]) for field in before)


def test_an_interrupted_build_leaves_nothing_behind(root, monkeypatch):
    decode, calls = animal_part.read_rgb, []

    def interrupted(path):
        calls.append(path)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setattr(animal_part, "read_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        AnimalPart(str(root), ["fox"], 32).prepare_data()
    assert list((root / "pellucid_cache").iterdir()) == []


def test_builds_at_the_same_time_agree(root):
    modules = [AnimalPart(str(root), ["fox"], 32) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(AnimalPart.prepare_data, modules))
    items = [data.dataset("all")[7] for data in modules]
    assert all(torch.equal(items[0]["image"], item["image"]) for item in items)
    assert len(list((root / "pellucid_cache").iterdir())) == 4


def test_the_cache_goes_where_it_may(root, user_cache, tmp_path):
    assert choose_folder(root, None) == root / "pellucid_cache"
    assert choose_folder(root, str(tmp_path / "mine")) == tmp_path / "mine"
    root.chmod(0o555)
    try:
        assert choose_folder(root, None) == user_cache / "crops"
    finally:
        root.chmod(0o755)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot make cache folder .*file.*cache_dir"):
        choose_folder(root, str(tmp_path / "file"))


def test_equal_data_sets_in_one_cache_folder_do_not_meet(tmp_path):
    for name, count in (("a", 10), ("b", 12)):
        write_category(tmp_path / name, FOX, count)
        write_negatives(tmp_path / name, 10)
    options = {"image_size": 16, "cache_dir": str(tmp_path / "cache")}
    for name in ("a", "b"):
        AnimalPart(str(tmp_path / name), **options).prepare_data()
    assert len(caches(tmp_path / "cache")) == 8


def test_loading_processes_get_no_copy_of_the_images(root):
    dataset = AnimalPart(str(root), ["fox"], 64).dataset("train")
    expected = dataset[3]["image"]
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 40 * 64 * 64 * 3 / 4
    assert torch.equal(pickle.loads(pickled)[3]["image"], expected)


# What goes wrong


def drop(path):
    return lambda root: (root / path).unlink()


def damage(path):
    return lambda root: (root / path).write_bytes(b"\xff\xd8 not this")


IMAGES = f"detanimalpart/{FOX}_obj/img/img"
MISTAKES = {
    "no box file": (drop(f"detanimalpart/{FOX}_obj/img/data.mat"), "data.mat is missing"),
    "no head file": (drop(f"truth_part/{FOX}/truth_part01.mat"), "truth_part01.mat is missing"),
    "no legs file": (drop(f"truth_part/{FOX}/truth_part02.mat"), "truth_part02.mat is missing"),
    "one image less": (drop(f"{IMAGES}/00020.jpg"), r"data.mat annotates 20 .* holds 19"),
    "one name wrong": (
        lambda root: (root / IMAGES / "00004.jpg").rename(root / IMAGES / "00094.jpg"),
        r"image 00004.jpg is missing",
    ),
    "fewer parts": (
        lambda root: write_hdf5_parts(root / "truth_part" / FOX / "truth_part02.mat", [()] * 19),
        "truth_part02.mat annotates 19 images",
    ),
    "broken image": (damage(f"{IMAGES}/00003.jpg"), "cannot read image .*00003.jpg.*replace"),
    "broken boxes": (damage(f"{IMAGES}/../data.mat"), "cannot read annotation file .*data.mat"),
    "other content": (
        lambda root: savemat(root / "truth_part" / FOX / "truth_part01.mat", {"other": 1}),
        "cannot read annotation file .*truth_part01.mat.*KeyError",
    ),
    "box outside": (
        lambda root: write_boxes(root / IMAGES / "../data.mat", [(200, 1, 300, 90)] * 20),
        "00001.jpg.*120 x 100",
    ),
    "broken negative": (damage("neg/00003.JPEG"), "cannot read image .*neg/00003.JPEG"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_files_are_named_before_training(root, mistake):
    make, said = MISTAKES[mistake]
    make(root)
    with pytest.raises(DataError, match=said) as caught:
        AnimalPart(str(root), ["fox"], 32).prepare_data()
    assert len(str(caught.value)) < 400


def test_missing_folders_are_named(root, tmp_path):
    with pytest.raises(DataError, match=r"root .*nowhere has no folder detanimalpart; give"):
        AnimalPart(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"folder .*elsewhere is missing"):
        AnimalPart(str(root), ["fox"], negatives=str(tmp_path / "elsewhere"))
    (tmp_path / "empty" / "detanimalpart").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no category"):
        AnimalPart(str(tmp_path / "empty"))


def test_wrong_categories_are_named_with_the_nearest(root):
    with pytest.raises(DataError, match=r"category 'domestc cat' .* did you mean domestic cat"):
        AnimalPart(str(root), ["domestc cat"])
    with pytest.raises(DataError, match=r"category 'n02118334' .* did you mean .*n02118333"):
        AnimalPart(str(root), ["n02118334"])
    with pytest.raises(DataError, match=r"category 'zzz' .* it holds fox, domestic cat"):
        AnimalPart(str(root), ["zzz"])
    with pytest.raises(ValueError, match="at least one category"):
        AnimalPart(str(root), [])
    with pytest.raises(ValueError, match="must not repeat"):
        AnimalPart(str(root), ["fox", FOX])


def test_too_few_objects_for_three_splits_are_said(tmp_path):
    write_category(tmp_path, FOX, 6)
    write_negatives(tmp_path, 7)
    with pytest.raises(DataError, match=r"6 usable images.* at least 1$"):
        AnimalPart(str(tmp_path), image_size=16).prepare_data()


# The real data set

HEADS = dict(
    zip(
        ("turtle", "dog", "fox", "domestic cat", "bear", "hamster", "squirrel", "cattle"),
        [
            (193, 154, 79),
            (688, 206, 134),
            (286, 211, 143),
            (529, 192, 130),
            (380, 198, 138),
            (524, 215, 128),
            (276, 215, 207),
            (230, 177, 112),
        ],
        strict=True,
    )
)


def real_root():
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("PELLUCID_TEST_DATA", beside)) / "animal-part"
    if not root.is_dir():
        pytest.skip(f"Animal-Part is not at {root}; set PELLUCID_TEST_DATA to its folder")
    return root


def test_objects_and_landmarks_of_the_real_files():
    root, wnids = real_root(), {name: wnid for wnid, name in NAMES.items()}
    for name, (count, heads, legs) in HEADS.items():
        objects = read_category(root, wnids[name])
        assert len(objects.paths) == count
        assert objects.part_visible.sum(axis=0).tolist() == [heads, legs]
        places = objects.parts[objects.part_visible]
        assert places.min() >= 0
        assert places.max() <= 223


@pytest.mark.slow
def test_real_crops_are_decoded_once(tmp_path, monkeypatch):
    options = {"image_size": 64, "cache_dir": str(tmp_path)}
    data = AnimalPart(str(real_root()), ["turtle"], **options)
    negatives = len(list((real_root() / "neg").iterdir()))
    assert len(data.dataset("all")) == 193 + negatives
    forbid(monkeypatch)
    again = AnimalPart(str(real_root()), ["turtle"], **options)
    check_batch(next(iter(again.train_dataloader())), again.provides)

"""CUB-200-2011 on stand-in images in the published layout, and its real annotations if present."""

import os
import pickle
import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from pellucid.batch import check_batch
from pellucid.cli import shipped_configs
from pellucid.datamodules import cub200_parts
from pellucid.datamodules.base import collate
from pellucid.datamodules.cub200_parts import CUB200Parts
from pellucid.datamodules.cub200_parts_files import find_categories, read_annotations
from pellucid.datamodules.errors import DataError

PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing"),
    *("nape", "right eye", "right leg", "right wing", "tail", "throat"),
)
SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
WIDTH, HEIGHT = 120, 90
BOX = (20.0, 10.0, 84.0, 64.0)  # x, y, width, height
SPOTS = {
    "back": ((50, 60), "lime"),
    "left eye": ((35, 25), "red"),
    "right eye": ((60, 30), "blue"),
    "tail": ((90, 50), "yellow"),
}
CHANNELS = {"lime": (0, 1, 0), "red": (1, 0, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "user-cache"))


def place_of(part, number):
    """(x, y) of a landmark in the photograph of a number; it moves a little from one to another."""
    x, y = SPOTS[part][0]
    return x + number % 5, y + number % 3


def photograph(number):
    image = Image.new("RGB", (WIDTH, HEIGHT), (60, 60, 60))
    draw = ImageDraw.Draw(image)
    for part, (_, colour) in SPOTS.items():
        x, y = place_of(part, number)
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
    return image


def write_cub(root, species=SPECIES, train=4, test=2, box=BOX, masks=False):
    """Photographs and annotations as published, of each species some for training and for test.

    The landmarks of ``SPOTS`` are visible; the others are at (0, 0), as published where invisible.
    """
    entries = [(label, i < train) for label in range(len(species)) for i in range(train + test)]
    tables = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    tables |= {"bounding_boxes": [], "parts/part_locs": []}
    tables["classes"] = [f"{i} {name}" for i, name in enumerate(species, start=1)]
    tables["parts/parts"] = [f"{i} {name}" for i, name in enumerate(PARTS, start=1)]
    for number, (label, is_train) in enumerate(entries, start=1):
        file = f"{species[label]}/Bird_{number:04d}.jpg"
        path = root / "images" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(number).save(path, quality=98, subsampling=0)
        tables["images"].append(f"{number} {file}")
        tables["image_class_labels"].append(f"{number} {label + 1}")
        tables["train_test_split"].append(f"{number} {int(is_train)}")
        tables["bounding_boxes"].append(" ".join(map(str, (number, *box))))
        for part, name in enumerate(PARTS, start=1):
            x, y = place_of(name, number) if name in SPOTS else (0, 0)
            tables["parts/part_locs"].append(f"{number} {part} {x:.1f} {y:.1f} {name in SPOTS:d}")
    (root / "parts").mkdir()
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if masks:
        for line in tables["images"]:
            write_mask(root / "segmentations" / f"{line.split()[1][:-4]}.png")
    return root


def write_mask(path, size=(WIDTH, HEIGHT)):
    """A rectangle from (40, 20) to (79, 49) of four people in five, and one of a single person."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = Image.new("L", size, 0)
    grey.paste(51, (30, 15, 40, 20))
    grey.paste(204, (40, 20, 80, 50))
    grey.save(path)


@pytest.fixture
def root(tmp_path):
    return write_cub(tmp_path / "CUB_200_2011")


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def pixels(data, image):
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    return (image * std + mean) * 255


def spot(image, colour):
    """Centre (x, y) of a coloured disc in an image of values in [0, 255]."""
    wanted = torch.tensor(CHANNELS[colour])[:, None, None] * 255.0
    near = ((image - wanted).abs().amax(0) < 80).float()
    rows, columns = torch.meshgrid(*map(torch.arange, near.shape), indexing="ij")
    return torch.stack([(near * columns).sum(), (near * rows).sum()]) / near.sum()


# Landmarks and boxes


@pytest.mark.parametrize("size", [64, 96, 200])
@pytest.mark.parametrize("crop_to_box", [True, False])
def test_landmarks_are_on_their_spots(root, size, crop_to_box):
    data = CUB200Parts(str(root), crop_to_box=crop_to_box, image_size=size)
    assert data.part_names == PARTS
    width, height = BOX[2:] if crop_to_box else (WIDTH, HEIGHT)
    left, top = BOX[:2] if crop_to_box else (0, 0)
    for number, item in enumerate(data.make_dataset("all"), start=1):
        assert item["image"].shape == (3, size, size)
        image = pixels(data, item["image"])
        for part, name in enumerate(PARTS):
            assert item["part_visible"][part] == (name in SPOTS)
            if name not in SPOTS:
                assert item["parts"][part].tolist() == [0, 0]
                continue
            x, y = place_of(name, number)
            # The centre of pixel (x, y), measured from the corner of the crop, scaled.
            exact = [
                (x + 0.5 - left) * size / width - 0.5,
                (y + 0.5 - top) * size / height - 0.5,
            ]
            assert item["parts"][part].tolist() == pytest.approx(exact, abs=1e-3)
            found = spot(image, SPOTS[name][1])
            torch.testing.assert_close(item["parts"][part], found, atol=0.8, rtol=0)


def test_chosen_landmarks_come_in_their_order(root):
    data = CUB200Parts(str(root), landmarks=["Tail", "right_eye"], image_size=64)
    every = CUB200Parts(str(root), image_size=64)
    assert data.part_names == ("tail", "right eye")
    for item, full in zip(data.make_dataset("all"), every.make_dataset("all"), strict=True):
        assert torch.equal(item["parts"], full["parts"][[13, 10]])
        assert item["part_visible"].tolist() == [True, True]


def test_location_instability_can_look_at_some_of_the_landmarks(root):
    data = CUB200Parts(str(root), instability_landmarks=["Tail", "left_eye"])
    assert data.instability_parts == ("tail", "left eye")
    assert data.part_names == PARTS
    assert CUB200Parts(str(root)).instability_parts == PARTS
    with pytest.raises(ValueError, match=r"^instability_landmarks: there is no 'tail'; there is b"):
        CUB200Parts(str(root), landmarks=["back", "beak"], instability_landmarks=["tail"])


@pytest.mark.parametrize("landmarks", [["left eye", "back"], ["left eye", "right eye", "back"]])
def test_a_mirror_swaps_left_and_right_whichever_are_chosen(root, landmarks):
    data = CUB200Parts(str(root), landmarks=landmarks, image_size=96, augment=True)
    dataset, sides = data.dataset("train"), set()
    for position in range(4 * len(dataset)):
        item = dataset[position]
        image = pixels(data, item["image"])
        red, blue, lime = (spot(image, colour) for colour in ("red", "blue", "lime"))
        middles = torch.stack([red, blue, lime])
        if not ((middles > 9) & (middles < 86)).all():
            continue  # A crop cuts a disc, whose middle is then not the landmark.
        mirrored = bool(red[0] > blue[0])
        sides.add(mirrored)
        # In a mirror image what looks like the left eye was the right one, the blue one.
        eyes = (blue, red) if mirrored else (red, blue)
        places = dict(zip(("left eye", "right eye", "back"), (*eyes, lime), strict=True))
        assert item["part_visible"].all()
        for name, part in zip(landmarks, item["parts"], strict=True):
            torch.testing.assert_close(part, places[name], atol=1.0, rtol=0)
    assert sides == {True, False}


def test_an_invisible_right_eye_is_an_invisible_left_eye_in_the_mirror(root):
    for number in range(1, 19):
        x, y = place_of("right eye", number)
        edit(
            root / "parts" / "part_locs.txt",
            f"\n{number} 11 {x:.1f} {y:.1f} 1",
            f"\n{number} 11 0.0 0.0 0",
        )
    data = CUB200Parts(str(root), landmarks=["left eye", "right eye"], augment=True, image_size=64)
    seen = [data.dataset("train")[position]["part_visible"].tolist() for position in range(40)]
    assert {tuple(visible) for visible in seen} >= {(True, False), (False, True)}
    assert [True, True] not in seen


def test_a_visible_landmark_outside_the_box_is_not_visible_in_the_crop(root):
    x, y = place_of("tail", 1)
    edit(root / "parts" / "part_locs.txt", f"1 14 {x:.1f} {y:.1f} 1", "1 14 110.0 50.0 1")
    crop = CUB200Parts(str(root), landmarks=["tail"], image_size=64).make_dataset("all")[0]
    assert crop["part_visible"].tolist() == [False]
    assert crop["parts"].tolist() == [[0, 0]]
    whole = CUB200Parts(str(root), landmarks=["tail"], crop_to_box=False, image_size=64)
    assert whole.make_dataset("all")[0]["part_visible"].tolist() == [True]


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ("-10.0 -5.0 90.0 60.0", (0, 0, 80, 55)),
        ("40.0 20.0 300.0 200.0", (40, 20, 120, 90)),
        ("20.4 10.6 60.2 50.2", (20, 10, 81, 61)),
    ],
)
def test_a_box_that_leaves_the_image_or_has_fractions(root, box, cut):
    edit(root / "bounding_boxes.txt", "1 20.0 10.0 84.0 64.0", f"1 {box}")
    data = CUB200Parts(str(root), landmarks=["right eye"], image_size=64)
    item = data.make_dataset("all")[0]
    x, y = place_of("right eye", 1)
    left, top, right, bottom = cut
    exact = [(x + 0.5 - left) * 64 / (right - left), (y + 0.5 - top) * 64 / (bottom - top)]
    assert item["parts"][0].tolist() == pytest.approx([v - 0.5 for v in exact], abs=1e-3)
    found = spot(pixels(data, item["image"]), "blue")
    torch.testing.assert_close(item["parts"][0], found, atol=0.8, rtol=0)


def test_a_grey_photograph_has_three_equal_channels(root):
    path = root / "images" / SPECIES[0] / "Bird_0001.jpg"
    photograph(1).convert("L").save(path)
    data = CUB200Parts(str(root), image_size=64)
    image = pixels(data, data.make_dataset("all")[0]["image"])
    torch.testing.assert_close(image[0], image[1], atol=1e-2, rtol=0)
    torch.testing.assert_close(image[0], image[2], atol=1e-2, rtol=0)
    assert image.std() > 10


# Masks


def test_masks_move_with_their_images(tmp_path):
    root = write_cub(tmp_path / "CUB_200_2011", masks=True)
    data = CUB200Parts(str(root), image_size=128)
    assert "mask" in data.provides
    mask = data.make_dataset("test")[0]["mask"]
    assert mask.shape == (128, 128)
    rows, columns = mask.nonzero().T
    # (40, 20) to (80, 50) in the box (20, 10, 104, 74).
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    exact = [20 * 128 / 84, 10 * 128 / 64, 60 * 128 / 84, 40 * 128 / 64]
    assert [float(edge) for edge in edges] == pytest.approx(exact, abs=1)
    whole = CUB200Parts(str(root), image_size=120, crop_to_box=False).make_dataset("test")[0]
    assert int(whole["mask"].sum()) == pytest.approx(40 * 30 * 120 / 90, rel=0.05)


def test_the_masks_of_another_folder(tmp_path, root):
    assert "mask" not in CUB200Parts(str(root)).provides
    assert "mask" in CUB200Parts.provides
    write_cub(tmp_path / "other", masks=True)
    folder = tmp_path / "other" / "segmentations"
    data = CUB200Parts(str(root), segmentations=str(folder), image_size=32)
    batch = next(iter(data.val_dataloader()))
    check_batch(batch, data.provides)
    assert batch["mask"].any()


def test_masks_that_do_not_fit_are_named(tmp_path):
    root = write_cub(tmp_path / "CUB_200_2011", masks=True)
    mask = root / "segmentations" / SPECIES[1] / "Bird_0008.png"
    write_mask(mask, size=(60, 45))
    with pytest.raises(DataError, match=r"Bird_0008.png has 60 x 45 pixels, its image 120 x 90"):
        CUB200Parts(str(root)).prepare_data()
    mask.unlink()
    with pytest.raises(DataError, match=r"Bird_0008.png is missing; copy the segmentations of"):
        CUB200Parts(str(root))
    with pytest.raises(DataError, match=r"nowhere is missing; put the nowhere"):
        CUB200Parts(str(root), segmentations=str(tmp_path / "nowhere"))


# Splits and classes


def numbers(data, split):
    """Numbers of a split's images."""
    return [row + 1 for row in data._rows(split)]


def test_the_official_split_and_a_validation_split_of_its_training_images(tmp_path):
    root = write_cub(tmp_path / "cub", train=10, test=3)
    data = CUB200Parts(str(root), val_share=0.3, image_size=32)
    train, val, test, every = (numbers(data, split) for split in ("train", "val", "test", "all"))
    official = {i + 1 for i in range(39) if i % 13 < 10}
    assert set(train) | set(val) == official
    assert not set(train) & set(val)
    assert set(test) == set(every) - official
    assert every == list(range(1, 40))
    for species in range(3):
        assert sum((number - 1) // 13 == species for number in val) == 3
    assert len(data.make_dataset("val")) == 9


def test_the_validation_images_do_not_depend_on_seed_or_choice_of_species(tmp_path):
    root = str(write_cub(tmp_path / "cub", train=10, test=1))
    every = set(numbers(CUB200Parts(root), "val"))
    assert set(numbers(CUB200Parts(root, seed=5), "val")) == every
    some = CUB200Parts(root, categories=[3, 1])
    assert set(numbers(some, "val")) == {n for n in every if not 12 <= n <= 22}
    assert set(numbers(CUB200Parts(root, split_seed=1, val_share=0.5), "val")) != set(
        numbers(CUB200Parts(root, val_share=0.5), "val")
    )


@pytest.mark.parametrize(
    "categories",
    [
        [3, 1],
        ["3", "1"],
        ["003.Sooty_Albatross", "001.Black_footed_Albatross"],
        ["sooty albatross", "Black_footed_Albatross"],
    ],
)
def test_species_by_number_or_name_label_images_in_their_order(root, categories):
    data = CUB200Parts(str(root), categories=categories, image_size=32)
    assert data.class_names == ("Sooty Albatross", "Black footed Albatross")
    assert data.num_classes == 2
    labels = [item["label"].item() for item in data.make_dataset("all")]
    assert labels == [1] * 6 + [0] * 6
    assert numbers(data, "all") == [*range(1, 7), *range(13, 19)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"categories": ["Laysan_Albatros", 1]}, r"'Laysan_Albatros'; did you mean '002.Laysan_"),
        ({"categories": ["laysan albatross x", 1]}, r"did you mean '002.Laysan_Albatross'"),
        ({"categories": [4, 1]}, r"no class 4; numbers are from 1 to 3"),
        ({"categories": [0, 1]}, r"no class 0; numbers are from 1 to 3"),
        ({"categories": [1]}, r"at least two classes, got \[1\]; .* null takes all"),
        ({"categories": []}, r"at least two classes, got \[\]"),
        ({"categories": [1, "001.Black_footed_Albatross"]}, "must not repeat, got .* once"),
        ({"landmarks": ["forhead"]}, r"landmarks: there is no 'forhead'; did you mean 'forehead'"),
        ({"landmarks": []}, r"at least one landmark and none twice, got \[\]; null takes all 15"),
        ({"landmarks": ["tail", "Tail"]}, "none twice"),
        ({"val_share": 0.0}, "val_share must be above 0 and below 1, got 0.0"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(root, options, said):
    with pytest.raises(ValueError, match=said):
        CUB200Parts(str(root), **options)


# Batches


def test_batches_have_every_field(root):
    data = CUB200Parts(str(root.parent), image_size=48, batch_size=5, landmarks=["back", "tail"])
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            check_batch(batch, data.provides)
            assert set(batch) == data.provides
    assert [b["index"].tolist() for b in data.test_dataloader()] == [[0, 1, 2, 3, 4], [5]]
    assert not data.dataset("train").random
    assert CUB200Parts(str(root), augment=True).dataset("train").random


def test_a_data_set_goes_to_worker_processes_without_its_data_module(root):
    data = CUB200Parts(str(root), image_size=48)
    data.trainer = lambda: None  # Which no other process could receive.
    dataset = data.dataset("train")
    copy = pickle.loads(pickle.dumps(dataset))
    for a, b in zip(collate([dataset[3]]).values(), collate([copy[3]]).values(), strict=True):
        assert torch.equal(a, b)


# Files


def test_the_order_of_lines_does_not_matter(root):
    before = read_annotations(root)
    generator = np.random.default_rng(0)
    for file in root.rglob("*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join(generator.permutation(lines)))
    after = read_annotations(root)
    for name, value in vars(before).items():
        assert np.array_equal(value, getattr(after, name)), name


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("images", "1 001.", "x 001.", r"cannot read annotation file .*images.txt \(invalid"),
        ("images", "2 001.", "1 001.", r"images.txt \(a number is there twice\)"),
        ("images", "1 001.", "99 001.", r"labels.txt and images.txt are not about the same images"),
        ("classes", "1 001.", "5 001.", r"classes.txt does not count from 1 up"),
        ("classes", "3 003.Sooty_Albatross", "", r"has classes 1 to 3, classes.txt 2; copy both"),
        ("image_class_labels", "1 1", "1 0", r"has classes 0 to 3, classes.txt 3"),
        ("image_class_labels", "1 1", "2 1", r"are not about the same images; copy both"),
        ("train_test_split", "1 1\n", "", r"split.txt and images.txt are not about the same"),
        ("bounding_boxes", "64.0\n", "\n", r"cannot read annotation file .*bounding_boxes.txt"),
        ("bounding_boxes", "64.0\n", "nan\n", r"its lines must hold 5 finite numbers\); copy"),
        ("parts/parts", "15 throat\n", "", r"one line for each of 18 images and 14 parts"),
        ("parts/part_locs", "1 1 ", "1 2 ", r"one line for each of 18 images and 15 parts"),
        ("parts/part_locs", "1 1 ", "1 0 ", r"one line for each of 18 images and 15 parts"),
        ("parts/part_locs", "\n18 15 ", "\n19 15 ", r"one line for each of 18 images"),
        ("parts/part_locs", "1 2 0.0 0.0 0\n", "", r"one line for each of 18 images"),
    ],
)
def test_files_that_are_not_as_published_are_named(root, file, old, new, said):
    edit(root / f"{file}.txt", old, new)
    with pytest.raises(DataError, match=said):
        CUB200Parts(str(root))


@pytest.mark.parametrize("file", ["classes", "bounding_boxes", "parts/parts", "parts/part_locs"])
def test_a_missing_or_empty_file_is_named(root, file):
    path = root / f"{file}.txt"
    path.write_text("\n")
    with pytest.raises(DataError, match=rf"{path.name} \(it is empty\); copy it again"):
        CUB200Parts(str(root))
    path.unlink()
    with pytest.raises(DataError, match=f"annotation file {path} is missing; copy it again"):
        CUB200Parts(str(root))


def test_a_missing_data_set_or_its_images_are_named(root, tmp_path):
    with pytest.raises(DataError, match=r"holds no images.txt; give the folder CUB_200_2011"):
        CUB200Parts(str(tmp_path / "nowhere"))
    image = root / "images" / SPECIES[2] / "Bird_0015.jpg"
    image.unlink()
    CUB200Parts(str(root), categories=[1, 2])
    with pytest.raises(DataError, match=r"Bird_0015.jpg is missing; copy the images of CUB"):
        CUB200Parts(str(root))
    (root / "images").rename(tmp_path / "pictures")
    first = root / "images" / SPECIES[0] / "Bird_0001.jpg"
    with pytest.raises(DataError, match=f"images is missing; put the images .* there, as {first}"):
        CUB200Parts(str(root))


def test_a_broken_image_and_a_box_outside_are_found_before_training(root):
    edit(root / "bounding_boxes.txt", "\n8 20.0", "\n8 120.0")
    with pytest.raises(DataError, match=r"the box \(120.0, 10.0, 204.0, 74.0\) .* lies outside"):
        CUB200Parts(str(root)).prepare_data()
    CUB200Parts(str(root), crop_to_box=False).prepare_data()
    broken = root / "images" / SPECIES[1] / "Bird_0009.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read image .*Bird_0009.jpg"):
        CUB200Parts(str(root), crop_to_box=False).prepare_data()


def test_images_are_checked_once(root, monkeypatch):
    data = CUB200Parts(str(root), image_size=32)
    data.prepare_data()
    monkeypatch.setattr(cub200_parts, "check_images", None)
    assert len(data.dataset("train")) == 9


# The real annotations


def real_root():
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("PELLUCID_TEST_DATA", beside)) / "cub" / "CUB_200_2011"
    if not root.is_dir():
        pytest.skip(f"CUB-200-2011 is not at {root}; set PELLUCID_TEST_DATA to the data's folder")
    return root


def test_the_real_annotations_line_by_line():
    root = real_root()
    # The processor's time: other programs must not decide.
    start = time.process_time()
    found = read_annotations(root)
    assert time.process_time() - start < 3
    assert found.part_names == PARTS
    assert (len(found.files), len(found.class_names)) == (11_788, 200)
    assert found.is_train.sum() == 5994

    def lines(name):
        return [line.split() for line in (root / f"{name}.txt").read_text().splitlines()]

    row_of = {number: row for row, (number, _) in enumerate(lines("images"))}
    for number, file in lines("images"):
        row = row_of[number]
        assert found.files[row] == file
        assert file.startswith(f"{found.class_names[found.labels[row]]}/")
    for number, flag in lines("train_test_split"):
        assert found.is_train[row_of[number]] == (flag == "1")
    for number, *box in lines("bounding_boxes"):
        x, y, width, height = map(float, box)
        assert found.boxes[row_of[number]].tolist() == [x, y, x + width, y + height]
    parts, visible = found.parts.tolist(), found.part_visible.tolist()
    for number, part, x, y, flag in lines("parts/part_locs"):
        row = row_of[number]
        assert parts[row][int(part) - 1] == [float(x), float(y)]
        assert visible[row][int(part) - 1] == (flag == "1")


def test_the_species_of_the_shipped_configs_are_in_the_real_list():
    names = read_annotations(real_root()).class_names
    for config in ("icnn_cub", "cnn_cub"):
        content = yaml.safe_load(shipped_configs()[config].read_text())
        categories = content["data"]["init_args"]["categories"]
        assert [names[i] for i in find_categories(names, categories)] == categories

"""The objects that captions ask for, by the classes of real palettes."""

from __future__ import annotations

import pytest

from fgdm_jax import compounds
from fgdm_jax.vocabulary import (
    COCO_NEVER_LABELLED,
    check_objects,
    classes_of,
    nearest_class,
    objects_in,
)
from fgdm_jax.words import IRREGULAR, KINDS, SAME
from input_pipeline.palettes import PALETTE_NAMES, palette

COCO = palette("coco").classes
ADE = palette("ade20k").classes


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("", ()),
        ("   ...!?", ()),
        ("a beautiful picture", ()),
        ("A DOG and a Cat.", ("dog", "cat")),
        ("a cat, then a dog, then the same cat", ("cat", "dog")),
        # Words end where they end.
        ("a carpet, a catalogue and a dogma", ("carpet",)),
        ("scattered doggedly, busy beforehand", ()),
        # Plurals.
        ("two people", ("person",)),
        ("men, women and children", ("person",)),
        ("knives near sheep and mice", ("knife", "sheep", "mouse")),
        ("buses on benches with sandwiches", ("bus", "bench", "sandwich")),
        ("several dogs sheep and cats", ("dog", "sheep", "cat")),
        ("shelves of toothbrushes and a tray of berries", ("shelf", "toothbrush", "fruit")),
        ("a pair of scissors", ("scissors",)),
        ("skiers on skis", ("person", "skis")),
        # Other names and kinds.
        ("a boy with a mobile phone", ("person", "cell phone")),
        ("a sofa before the television", ("couch", "tv")),
        ("a jetliner and an aeroplane", ("airplane",)),
        ("puppies and a kitten", ("dog", "cat")),
        ("a motorbike and a bike", ("motorcycle", "bicycle")),
        ("a child kicks a soccer ball", ("person", "sports ball")),
        # The longest name wins.
        ("a hot dog", ("hot dog",)),
        ("two hotdogs and a hot-dog", ("hot dog",)),
        ("a teddy bear", ("teddy bear",)),
        ("bear teddy", ("teddy bear",)),
        ("a traffic light and a light", ("traffic light", "light")),
        ("a dining table", ("dining table",)),
        ("a fire truck by a fire hydrant", ("truck", "fire hydrant")),
        ("a sea lion, a snowman and a guinea pig", ()),
        # Nouns that only say what the next one is for.
        ("a hotdog stand", ()),
        ("a pizza shop", ()),
        ("a dog house", ()),
        ("cat food", ()),
        ("a bus stop at the train station", ()),
        ("looking out of a car window", ("car",)),
        ("a carrot cake with a cake knife", ("cake", "knife")),
        ("a baby elephant and its mother", ("elephant",)),
        ("an apple tree", ("tree",)),
        ("a clock tower", ("clock", "building-other")),
        ("a dog's bowl and the cats' bed", ("dog", "bowl", "cat", "bed")),
        # Verbs that look like nouns.
        ("a zebra and a giraffe stand in the grass", ("zebra", "giraffe", "grass")),
        ("a train leaves the station", ("train",)),
        ("a dog faces the camera", ("dog",)),
        # Colours and materials.
        ("an orange cat", ("cat",)),
        ("an orange and white cat", ("cat",)),
        ("a black and orange train", ("train",)),
        ("a cat that is orange", ("cat",)),
        ("a cat and an orange", ("cat", "orange")),
        ("a bowl of oranges", ("bowl", "orange")),
        ("a plate with orange slices", ("plate", "orange")),
        ("orange juice", ()),
        ("light blue clouds over a wood table", ("clouds", "table")),
        ("a bench made of wood", ("bench",)),
        ("leaves and stones on the wood", ("leaves", "stone", "wood")),
        # Glasses.
        ("a man wearing glasses", ("person", "eye glasses")),
        ("two glasses of wine", ("wine glass",)),
        ("a wine glass", ("wine glass",)),
        ("a glass of water", ("cup",)),
        ("a glass vase", ("vase",)),
        # What is denied.
        ("a street with no cars or people", ("road",)),
        ("no cars and a dog", ("dog",)),
        ("a room without chairs, tables or people on the carpet", ("carpet",)),
        ("no one on the bench", ("bench",)),
        ("a couple of dogs", ("dog",)),
        ("a couple on a bench", ("person", "bench")),
        # COCO-Stuff.
        ("a brick wall", ("wall-brick",)),
        ("a wall of stone under the sky", ("wall-stone", "sky-other")),
        ("a wooden floor and a tiled wall", ("floor-wood", "wall-tile")),
        ("a wall in a building", ("wall-other", "building-other")),
        ("trees by the sea", ("tree", "sea")),
    ],
)
def test_objects_of_coco(caption, objects):
    assert objects_in(caption, COCO) == objects


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("a man on a sofa", ("person", "sofa")),
        ("tv", ("television receiver",)),
        ("a puppy and a giraffe", ("animal",)),
        ("a teddy bear", ("plaything",)),
        ("a hot dog", ("food",)),
        ("a minivan and a taxi", ("van", "car")),
        ("a bookcase, a dresser and an armchair", ("bookcase", "chest of drawers", "armchair")),
        ("a clock tower", ("clock", "tower")),
        ("a motorbike", ()),
        ("a street lamp by the pavement", ("streetlight", "sidewalk")),
        ("the ground", ("earth",)),
    ],
)
def test_objects_of_ade20k(caption, objects):
    assert objects_in(caption, ADE) == objects


def test_names_that_are_lists():
    classes = ("wall", "person;individual;soul", "sofa, couch, lounge", "swimming_pool;natatorium")
    assert objects_in("two individuals, a soul and a woman", classes) == (classes[1],)
    assert objects_in("a lounge and a swimming pool", classes) == (classes[2], classes[3])
    assert check_objects(["natatoriums"], classes) == (classes[3],)


def test_a_rider_is_a_person_where_there_is_no_class_for_riders():
    cityscapes = palette("cityscapes").classes
    assert objects_in("a cyclist", cityscapes) == ("rider",)
    assert objects_in("a cyclist", COCO) == ("person",)
    person, rider = cityscapes.index("person"), cityscapes.index("rider")
    assert classes_of("person", cityscapes) == (person, rider)
    assert classes_of("rider", cityscapes) == (rider,)


def test_objects_of_the_scenes():
    classes = palette("scenes").classes
    caption = "a red ball in front of a striped blue box in the snow, and behind it two cones"
    assert objects_in(caption, classes) == ("ball", "box", "snow", "cone")


@pytest.mark.parametrize("name", PALETTE_NAMES)
def test_every_class_is_found_by_its_own_name(name):
    classes = palette(name).classes
    kept = {"other", "unlabeled", "background", "solid-other", "structural-other"}
    for one in classes:
        spoken = one.removesuffix("-other").removesuffix("-stuff").replace("-", " ")
        found = objects_in(f"there is a {spoken}.", classes)
        if one in kept:
            assert found == ()
        elif one in ("door-stuff", "desk-stuff", "mirror-stuff", "window-other"):
            assert found == (spoken,), "the class without a suffix comes first"
        else:
            assert found == (one,)
            assert classes.index(one) in classes_of(one, classes)


@pytest.mark.parametrize("classes", [COCO, ADE])
def test_pairs_of_objects_are_found_in_their_order(rng, classes):
    names = [name for name in classes if objects_in(f"a {name}.", classes) == (name,)]
    assert len(names) > 100
    for first, second in rng.choice(names, (100, 2)):
        expected = (first, second) if first != second else (first,)
        assert objects_in(f"a {first} next to the {second}.", classes) == expected


def test_classes_that_no_data_has_are_left_out():
    caption = "a hat on a desk by the window and the door"
    assert objects_in(caption, COCO) == ("hat", "desk", "window", "door")
    assert objects_in(caption, COCO, leave_out=COCO_NEVER_LABELLED) == (
        "desk-stuff",
        "window-other",
        "door-stuff",
    )
    with pytest.raises(ValueError, match=r"leave_out names \['hatt'\]"):
        objects_in("", COCO, leave_out=["hatt"])


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("dog", ["dog"]),
        ("wall-brick", ["wall-brick"]),
        ("window", ["window", "window-blind", "window-other"]),
        ("window-other", ["window", "window-blind", "window-other"]),
        ("door", ["door", "door-stuff"]),
        ("table", ["dining table", "table"]),
        ("dining table", ["dining table"]),
        ("sky", ["clouds", "sky-other"]),
        ("water-other", ["river", "sea", "water-other"]),
        ("sofa", ["couch"]),
    ],
)
def test_classes_that_count_as_an_object(name, counted):
    assert [COCO[number] for number in classes_of(name, COCO)] == counted


def test_a_wall_is_any_wall():
    walls = {one for one in COCO if one.startswith("wall-")}
    assert {COCO[number] for number in classes_of("walls", COCO)} == walls


def test_objects_that_a_user_names():
    names = ["Dogs", "sofa", "wall-brick", "dog", "cellphone"]
    assert check_objects(names, COCO) == ("dog", "couch", "wall-brick", "cell phone")
    assert check_objects([], COCO) == ()


def test_unknown_objects_are_all_named_with_the_nearest():
    with pytest.raises(ValueError, match="unknown objects") as caught:
        check_objects(["dog", "giraff", "qqq", "televison"], COCO)
    text = str(caught.value)
    assert "there is no class for 'giraff'; did you mean 'giraffe'?" in text
    assert "there is no class for 'televison'; did you mean 'tv'?" in text
    assert "there is no class for 'qqq'\n" in text
    assert "'dog'" not in text
    with pytest.raises(ValueError, match="no class for 'unlabeledd'"):
        classes_of("unlabeledd", COCO)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("puppies", "dog"), ("elefant", "elephant"), ("qqq", None), ("", None), ("unicorn", None)],
)
def test_nearest_class(name, nearest):
    assert nearest_class(name, COCO) == nearest


def test_a_class_named_like_a_compound_is_asked_for():
    assert objects_in("ice cream", ("cream", "ice cream")) == ("ice cream",)
    assert objects_in("ice cream", ("cream", "ice")) == ()


def test_the_tables_are_well_formed():
    listed = [*SAME, *KINDS.values(), *compounds.COMPOUNDS.values(), *compounds.WHOLES.values()]
    for words in listed:
        parts = words.split(", ")
        assert all(part == part.strip().lower() and part for part in parts), words
        assert len(parts) == len(set(parts)), f"a word stands twice in {words}"
    for singular, plural in IRREGULAR.items():
        if plural != singular:
            assert objects_in(f"the {plural}.", (singular,)) == (singular,)

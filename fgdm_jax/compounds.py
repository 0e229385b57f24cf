"""Where a word of a caption is no thing to be drawn: compounds, parts, colours and materials."""

from __future__ import annotations

from collections.abc import Mapping


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COMPOUNDS: Mapping[str, str] = {
    # What they are called after is not in the picture, or need not be.
    "": "hot tub, sea lion, guinea pig, sea food, seafood, horse shoe, horseshoe, snow man, "
    "snowman, its mother, its baby, leaves the, leaves a, leaves an, leaves for, leaves its, "
    "orange juice, apple juice, apple pie, apple sauce, pan cake, pancake, ice cream, ice cube, "
    "cup holder, toilet paper, bus stop, bus station, train station, gas station, boat house, "
    "fire station, police station, car park, dog park, skate park, dog food, cat food, book store, "
    "book shop, coffee shop, pizza shop, pizza place, donut shop, hot dog stand, hotdog stand, "
    "fruit stand, food stand, food court, flower shop, flower bed, clothing store, toy store, "
    "grocery store, tv stand, tv show, tv station, tv remote holder, cake stand, umbrella stand, "
    "fork in the road, bird bath, bird house, birdhouse, bird cage, bird feeder, dog house, "
    "dog bed, cat bed, dog bowl, dog leash, river bed, bed room, chair lift, ski lift, ski lodge, "
    "ski resort, ski pole, ski jump, ski boot, ski mask, boat dock, horse racing, dog show, "
    "computer mouse pad, mouse pad, knife block, table tennis, ball game, baseball game, "
    "tennis match, tennis game, soccer game, soccer match, bear claw, cat tail, cow boy hat, "
    "car wash, car seat, train set, flower pot, plant pot, flower arrangement bowl, light switch, "
    "light bulb socket, wall paper, glass bowl cover, no one, nobody, sky dive, sky diver, "
    "remote area, remote location, remote island, plane ticket, house fly, butter fly, dragon fly, "
    "wine glass rack, paper towel holder, towel rack, coat rack, hat rack, plate rack, "
    "bottle cap, bottle opener, shower curtain rod, bath room, rest room, living room, "
    "dining room, tree house, treehouse, ginger bread house, gingerbread house, book end, "
    "couple of, pair of glasses case, crowd of, family of, light rain, light snow",
    "person": "couple of people, crowd of people, family of people, sky diver, snow boarder",
    "dog": "prairie dog",
    "clock, tower": "clock tower, clocktower",
    "vase, flower": "flower vase, vase of flowers",
    "fire hydrant": "fire hydrant cover",
    "bus": "bus driver",
    "paper": "paper towel, paper plate, paper bag",
    "skateboard": "skateboard ramp",
    "surfboard": "surf board rack",
    "hill, snow": "snowy hill, snow covered hill",
    "mountain, snow": "snowy mountain, snow capped mountain, snow covered mountain",
}
"""Phrases by what they show, which is not what their words say; "" is nothing."""

WHOLES: Mapping[str, str] = {
    "car, truck, bus, train, airplane, plane, boat, motorcycle, taxi, van": "window, door, seat, "
    "mirror, roof, light, headlight, wheel, tire, cabin, engine, hood, windshield, bed",
    "chair, table, bed, couch, desk, bench": "leg, top, arm, back, frame, seat",
    "door, window": "frame, handle, knob, ledge, sill",
    "tree": "trunk, top, stump, line",
    "bicycle, bike": "wheel, seat, tire, helmet, rack",
}
"""Parts that are named after their whole: who asks for a car window asks for a car."""

ADJECTIVES = _set(
    "orange light glass metal wood plastic stone straw paper cardboard cloth marble brick "
    "concrete rock ski"
)
"""Names of things that are also colours or materials: only things where no noun follows."""

NATURALLY_TOGETHER = _set(
    "snow clock grass person man woman boy girl lady guy rider skier surfer player couple"
)
"""Things that are there too where they stand before another: in a snow hill there is snow."""

COLOURS = _set(
    "white black red green blue yellow brown grey gray pink purple silver gold golden tan beige "
    "orange teal violet maroon cream dark bright pale light"
)

HEADS = _set(
    "station stop shop store stand house park food toy juice pie sauce statue figurine costume "
    "print pattern tree game match player court room show ride race racing carriage cart holder "
    "rack case pot pan pen stall ramp trainer carrier logo icon sticker drawing suit trick "
    "enclosure exhibit farm salesman vendor truck shirt hat peel skin soup crossing "
    "driver wash seat tracks festival market recipe lover owner breed poster"
)
"""Nouns after which the word before says what they are for: a pizza shop is no pizza."""

VERBS = _set("stand ride show race match park stop")
"""Of these heads, what may be said of two: a zebra and a giraffe stand."""

FUNCTION_WORDS = _set(
    "a an the and or but nor with without in on at of to from for by near beside behind under over "
    "above below between next inside outside into onto through across along around against off up "
    "down is are was were be being been has have had that which who whose this these those his her "
    "its their my your our one two three four five six seven eight nine ten some several many "
    "while as when where it they he she sitting standing lying laying hanging flying resting "
    "growing placed sits stands lies lays hangs slice slices there during after before than then "
    "so not leaves waves steps eyes faces plants"
)
"""Words that end a noun, so that what stands before them is a thing and no property."""

NEGATIONS = _set("no without minus lacking except nor zero")

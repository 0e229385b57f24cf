from __future__ import annotations

import dataclasses
import inspect
import itertools
import re

import pytest

from fgdm_jax.graph import (
    VARIABLES,
    Factor,
    check_graph,
    groups,
    make_graph,
    parse_graph,
    sampling_order,
    unknown_name,
)
from tests.fgdm_jax.toy_factors import problems_of

SEGMENTATION = Factor("segmentation")
DEPTH = Factor("depth", ("segmentation",))
IMAGE = Factor("image", ("segmentation", "depth"))
CHAIN = (SEGMENTATION, DEPTH, IMAGE)
LAYERS = (
    Factor("foreground_depth"),
    Factor("background_depth", ("foreground_depth",)),
    Factor("image", ("foreground_depth", "background_depth"), kind="cnc"),
)


def names(factors):
    return [factor.variable for factor in factors]


def unchecked(factor, **values):
    """Returns a factor with values that no type allows, as a config may hold them."""
    factor = dataclasses.replace(factor)
    for name, value in values.items():
        object.__setattr__(factor, name, value)
    return factor


@pytest.mark.parametrize(
    "graph",
    [
        CHAIN,
        CHAIN[::-1],
        LAYERS,
        (Factor("image", kind="prior"),),
        (SEGMENTATION, Factor("image", ("segmentation",), "controlnet")),
        (Factor("image", size=(512, 768), num_steps=1),),
        tuple(Factor(variable) for variable in VARIABLES),
        (*LAYERS[:2], dataclasses.replace(LAYERS[2], parents=LAYERS[2].parents[::-1])),
    ],
)
def test_good_graphs_pass(graph):
    check_graph(graph)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ((), ["the graph is empty; add at least one Factor"]),
        (
            (Factor("segmentatoin"),),
            ["factor 'segmentatoin': unknown variable 'segmentatoin'; did you mean 'segm"],
        ),
        (
            (Factor("image", ("dept",)),),
            ["factor 'image': unknown parent 'dept'; did you mean 'depth'?"],
        ),
        (
            (Factor("image", ("depth",)),),
            ["factor 'image': parent 'depth' has no factor; add Factor('depth')"],
        ),
        ((SEGMENTATION, SEGMENTATION), ["2 factors draw 'segmentation'; keep one"]),
        (
            (SEGMENTATION, Factor("image", ("segmentation", "segmentation"))),
            ["factor 'image': parent 'segmentation' is named 2 times"],
        ),
        ((Factor("depth", ("depth",)),), ["cycle depth -> depth (each a parent of the next)"]),
        (
            (
                Factor("segmentation", ("image",)),
                Factor("depth", ("segmentation",)),
                Factor("image", ("depth",)),
            ),
            ["cycle segmentation -> depth -> image -> segmentation"],
        ),
        (
            (SEGMENTATION, Factor("image", ("segmentation",), "prior")),
            ["factor 'image': 'prior' is Stable Diffusion alone and takes no parents"],
        ),
        (
            (Factor("image", kind="controlnet"),),
            ["factor 'image': a ControlNet takes exactly one parent, got none"],
        ),
        (
            (*CHAIN[:2], dataclasses.replace(IMAGE, kind="controlnet")),
            ["a ControlNet takes exactly one parent, got segmentation, depth"],
        ),
        (
            (*LAYERS[:2], Factor("image", ("foreground_depth",), "cnc")),
            ["takes the parents foreground_depth and background_depth, got foreground_depth"],
        ),
        (
            (unchecked(Factor("image"), kind="adaptor"),),
            ["unknown kind 'adaptor'; did you mean 'adapter'? choose one of adapter, prior"],
        ),
        ((Factor("image", size=(512, 500)),), ["multiples of 64, got (512, 500)"]),
        ((Factor("image", size=(0, 64)),), ["multiples of 64, got (0, 64)"]),
        ((unchecked(Factor("image"), size=512),), ["multiples of 64, got 512"]),
        (
            (Factor("image", num_steps=0),),
            ["num_steps must be a whole number of at least 1, got 0"],
        ),
        ((unchecked(Factor("image"), num_steps="9"),), ["num_steps must be a whole number"]),
        (
            (
                Factor("depth"),
                Factor("pose", ("depth",), "controlnet"),
                Factor("image", ("depth",), "controlnet"),
            ),
            ["pose and image are of kind 'controlnet', but a model holds one ControlNet"],
        ),
        (
            (
                Factor("foreground_depth"),
                Factor("background_depth"),
                Factor("sketch", ("foreground_depth", "background_depth"), "cnc"),
            ),
            ["Compose and Conquer draws images, nothing else"],
        ),
    ],
)
def test_each_defect_is_told(graph, expected):
    lines = problems_of(check_graph, graph)
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected, strict=True):
        assert text in line


def test_all_defects_are_told_at_once():
    graph = (
        Factor("segmentation", ("depth",), num_steps=0),
        Factor("depth", ("segmentation",), size=(100, 64)),
        Factor("nomral"),
        Factor("image", ("pose",), "cnc"),
        Factor("image"),
    )
    lines = "\n".join(problems_of(check_graph, graph))
    for text in (
        "2 factors draw 'image'",
        "num_steps",
        "(100, 64)",
        "did you mean 'normal'?",
        "parent 'pose' has no factor",
        "Compose and Conquer takes",
        "cycle segmentation -> depth -> segmentation",
    ):
        assert text in lines
    assert lines.count("\n") == 6


def test_two_cycles_are_both_told():
    graph = (
        Factor("segmentation", ("depth",)),
        Factor("depth", ("segmentation",)),
        Factor("sketch", ("canny", "depth")),
        Factor("canny", ("sketch",)),
    )
    assert [line.split(" (")[0] for line in problems_of(check_graph, graph)] == [
        "cycle segmentation -> depth -> segmentation",
        "cycle sketch -> canny -> sketch",
    ]


@pytest.mark.parametrize(
    ("wanted", "given", "expected"),
    [
        (None, (), ["segmentation", "depth", "image"]),
        (("image",), (), ["segmentation", "depth", "image"]),
        (("depth",), (), ["segmentation", "depth"]),
        (("segmentation",), (), ["segmentation"]),
        (None, ("segmentation",), ["depth", "image"]),
        # The segmentation is needed for the image itself, the depth's need of it is gone.
        (("image",), ("depth",), ["segmentation", "image"]),
        (("image",), ("segmentation", "depth"), ["image"]),
        (("depth", "image"), ("depth",), ["segmentation", "image"]),
        (("depth",), ("depth",), []),
        (None, ("segmentation", "depth", "image"), []),
        ("image", "depth", ["segmentation", "image"]),
    ],
)
def test_only_what_is_needed_is_drawn(wanted, given, expected):
    for graph in itertools.permutations(CHAIN):
        assert names(sampling_order(graph, wanted, given)) == expected


def test_what_only_given_variables_need_is_left_out():
    chain = (SEGMENTATION, DEPTH, Factor("image", ("depth",)))
    assert names(sampling_order(chain, ("image",), ("depth",))) == ["image"]


def test_parents_come_first_and_the_graphs_order_decides_the_rest():
    image = Factor("image", ("pose", "canny"))
    loose = (Factor("sketch"), image, Factor("canny"), Factor("normal"), Factor("pose", ("canny",)))
    assert names(sampling_order(loose)) == ["sketch", "canny", "normal", "pose", "image"]
    for graph in itertools.permutations(loose):
        order = names(sampling_order(graph))
        assert sorted(order) == sorted(names(graph))
        assert order.index("canny") < order.index("pose") < order.index("image")
        roots = [name for name in order if name in ("sketch", "canny", "normal")]
        assert roots == [name for name in names(graph) if name in roots]
        # An order that is right already is left as it is.
        assert names(sampling_order(sampling_order(graph))) == order


def test_unknown_names_and_wrong_graphs_are_refused():
    lines = problems_of(sampling_order, CHAIN, ("imgae", "pose"), ("dept",))
    assert [line.split(";")[0] for line in lines] == [
        "unknown wanted variable 'imgae'",
        "unknown wanted variable 'pose'",
        "unknown given variable 'dept'",
    ]
    assert "did you mean 'image'?" in lines[0]
    assert "did you mean 'depth'?" in lines[2]
    assert "choose one of segmentation, depth, image" in lines[1]
    assert "cycle" in problems_of(sampling_order, (Factor("depth", ("depth",)),))[0]


def test_sequential_groups_hold_one_factor():
    assert groups(CHAIN, "sequential") == tuple((factor,) for factor in CHAIN)
    assert groups((), "sequential") == groups((), "joint") == ()


def test_joint_groups_are_cut_where_an_image_is_needed():
    assert groups(CHAIN, "joint") == (CHAIN,)
    assert groups(LAYERS, "joint") == (LAYERS[:2], LAYERS[2:])
    # An adapter on what a ControlNet draws advances with the ControlNet.
    controlnet = Factor("depth", ("segmentation",), "controlnet")
    image = Factor("image", ("segmentation", "depth"))
    pose = Factor("pose", kind="prior")
    order = (SEGMENTATION, controlnet, image, pose)
    assert groups(order, "joint") == ((SEGMENTATION, pose), (controlnet, image))
    # Two images in a row are three groups.
    last = Factor("image", ("depth",), "controlnet")
    assert groups((SEGMENTATION, controlnet, last), "joint") == (
        (SEGMENTATION,),
        (controlnet,),
        (last,),
    )


def test_given_parents_cut_nothing():
    order = sampling_order((*LAYERS, SEGMENTATION), given=LAYERS[2].parents)
    assert groups(order, "joint") == ((LAYERS[2], SEGMENTATION),)


def test_adapters_that_wait_begin_when_their_parents_are_done():
    segmentation, depth, image = CHAIN
    assert groups(CHAIN, "joint", ["image"]) == ((segmentation, depth), (image,))
    assert groups(CHAIN, "joint", ["depth"]) == ((segmentation,), (depth, image))
    assert groups(CHAIN, "joint", ["depth", "image"]) == ((segmentation,), (depth,), (image,))
    # Nothing has to be waited for.
    order = sampling_order(CHAIN, given=["segmentation"])
    assert groups(order, "joint", ["depth"]) == ((depth, image),)


def test_an_unknown_mode_is_refused():
    # The tests' check of types would be faster; a config is not checked by it.
    unchecked_groups = inspect.unwrap(groups)
    with pytest.raises(ValueError, match=re.escape("did you mean 'joint'?")):
        unchecked_groups(CHAIN, "jiont")


def test_plain_dicts_make_the_graph():
    written = [
        {"variable": "segmentation", "size": [256, 256], "num_steps": 10},
        {"variable": "image", "parents": ["segmentation"], "kind": "controlnet"},
    ]
    assert make_graph(written) == (
        Factor("segmentation", size=(256, 256), num_steps=10),
        Factor("image", ("segmentation",), "controlnet"),
    )
    hash(make_graph(written))


def test_wrong_dicts_are_refused():
    lines = problems_of(
        make_graph,
        [{"parents": []}, {"variable": "image", "parent": ["depth"], "parents": "depth"}],
    )
    assert lines[0].startswith("factor 0 names no variable; choose one of segmentation, pose")
    assert lines[1].startswith("factor 1: unknown field 'parent'; did you mean 'parents'?")
    assert lines[2] == "factor 1: parents must be a list, got the text 'depth'"
    assert (
        "has no factor" in problems_of(make_graph, [{"variable": "image", "parents": ["depth"]}])[0]
    )


def test_the_nearest_name_is_suggested_only_if_there_is_one():
    assert unknown_name("variable", "zzz", ("depth",)) == (
        "unknown variable 'zzz'; choose one of depth"
    )


def test_a_text_may_tell_sizes_and_steps():
    assert parse_graph("depth@256x128@10, normal<depth@20, image<normal:controlnet@512x512") == (
        Factor("depth", size=(256, 128), num_steps=10),
        Factor("normal", ("depth",), num_steps=20),
        Factor("image", ("normal",), "controlnet", size=(512, 512)),
    )
    for text in ("depth@256", "depth@10@256x256", "depth@x"):
        if text == "depth@256":
            assert parse_graph(text) == (Factor("depth", num_steps=256),)
        else:
            assert problems_of(parse_graph, text)

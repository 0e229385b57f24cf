"""The factor graph as data: which variables there are, and which are drawn from which others.

FG-DM (arXiv:2410.21638) writes the joint distribution of an image and its conditions, given a text,
as a product of factors, each the distribution of one variable given some of the others, its
parents. Here a factor is a frozen dataclass and a graph a tuple of them:

    graph = (
        Factor("segmentation"),
        Factor("image", parents=("segmentation",)),
    )

Weights, sizes of networks and sampling are elsewhere: nothing here needs JAX.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

VARIABLES = (
    "segmentation",
    "pose",
    "depth",
    "normal",
    "sketch",
    "canny",
    "foreground_depth",
    "background_depth",
    "image",
)
"""Every variable that a factor can draw, by the names of the training data."""

Kind: TypeAlias = Literal["adapter", "prior", "controlnet", "cnc"]

Mode: TypeAlias = Literal["sequential", "joint"]

LAYERED_DEPTH = ("foreground_depth", "background_depth")
"""The parents of a factor that is Compose and Conquer."""

_KINDS_OF_IMAGES = ("controlnet", "cnc")
_SIZE_STEP = 64
_FACTOR = re.compile(
    r"(\w+)(?:\s*<\s*(\w+(?:\s*\+\s*\w+)*))?(?:\s*:\s*(\w+))?"
    r"(?:\s*@\s*(\d+)x(\d+))?(?:\s*@\s*(\d+))?"
)


@dataclasses.dataclass(frozen=True)
class Factor:
    """One factor: a variable and the network that draws it.

    Attributes:
      variable: what it draws; one of VARIABLES.
      parents: the variables that it is drawn from, in the order of the adapter's input channels.
      kind: "adapter" is an adapter on the frozen prior, which sees its parents' latents, or the
        variable's own noisy latents if it has no parents. "prior" is Stable Diffusion alone.
        "controlnet" and "cnc" (Compose and Conquer) see their parents as images.
      size: (height, width) in pixels, multiples of 64; None leaves it to whoever samples.
      num_steps: steps of the sampler, at least 1; None leaves it to whoever samples.
    """

    variable: str
    parents: tuple[str, ...] = ()
    kind: Kind = "adapter"
    size: tuple[int, int] | None = None
    num_steps: int | None = None


FactorGraph: TypeAlias = tuple[Factor, ...]


def make_graph(factors: Iterable[Mapping[str, Any]]) -> FactorGraph:
    """Returns the checked graph of factors written as plain dicts, as in a config.

    Args:
      factors: fields of `Factor` by name; lists may stand for tuples.

    Raises:
      ValueError: a field is unknown or missing, or `check_graph` refuses the graph.
    """
    fields = [field.name for field in dataclasses.fields(Factor)]
    problems, graph = [], []
    for index, given in enumerate(factors):
        where = f"factor {index}"
        unknown = [name for name in given if name not in fields]
        problems += [f"{where}: {unknown_name('field', name, fields)}" for name in unknown]
        if "variable" not in given:
            problems.append(f"{where} names no variable; choose one of {', '.join(VARIABLES)}")
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in given.items()
        }
        if isinstance(values.get("parents"), str):
            problems.append(f"{where}: parents must be a list, got the text {given['parents']!r}")
        if not problems:
            graph.append(Factor(**values))
    _raise(problems)
    check_graph(tuple(graph))
    return tuple(graph)


def parse_graph(text: str) -> FactorGraph:
    """Returns the checked graph of a text: "VARIABLE<PARENT+PARENT:KIND@HEIGHTxWIDTH@STEPS, ...".

    Args:
      text: such as "segmentation, depth<segmentation, image<segmentation+depth"; a kind other than
        "adapter" follows a colon: "segmentation, image<segmentation:controlnet". A size in pixels
        and a number of steps may follow: "segmentation@256x256@10".

    Raises:
      ValueError: a part cannot be read, or `check_graph` refuses the graph.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    matches = {item: _FACTOR.fullmatch(item) for item in items}
    _raise(
        [
            f"{item!r} is no factor; write VARIABLE, VARIABLE<PARENT+PARENT or, with a kind, "
            "VARIABLE<PARENT:controlnet; then, if wanted, @HEIGHTxWIDTH and @STEPS"
            for item, match in matches.items()
            if match is None
        ]
    )
    return make_graph(
        {
            "variable": match[1],
            "parents": tuple(re.findall(r"\w+", match[2] or "")),
            "kind": match[3] or "adapter",
            "size": (int(match[4]), int(match[5])) if match[4] else None,
            "num_steps": int(match[6]) if match[6] else None,
        }
        for match in map(_FACTOR.fullmatch, items)
        if match is not None
    )


def check_graph(graph: FactorGraph) -> None:
    """Checks that every factor of the graph can be drawn.

    Raises:
      ValueError: lists everything that is wrong: unknown or repeated variables, parents that no
        factor draws, cycles, parents that do not fit the kind, sizes, steps and scales.
    """
    problems = [] if graph else ["the graph is empty; add at least one Factor"]
    drawn = collections.Counter(factor.variable for factor in graph)
    problems += [
        f"{count} factors draw {variable!r}; keep one of them"
        for variable, count in drawn.items()
        if count > 1
    ]
    controlled = [factor.variable for factor in graph if factor.kind == "controlnet"]
    if len(controlled) > 1:
        problems.append(
            f"{' and '.join(controlled)} are of kind 'controlnet', but a model holds one ControlNet"
        )
    for factor in graph:
        found = [*_name_problems(factor, drawn), *_kind_problems(factor), *_number_problems(factor)]
        problems += [f"factor {factor.variable!r}: {problem}" for problem in found]
    problems += [
        f"cycle {' -> '.join(cycle)} (each a parent of the next); take one of these parents away"
        for cycle in _cycles(graph)
    ]
    _raise(problems)


def sampling_order(
    graph: FactorGraph, wanted: Sequence[str] | None = None, given: Iterable[str] = ()
) -> FactorGraph:
    """Returns the factors that must be sampled to draw `wanted`, parents first.

    Of the factors whose parents are there, the first in the graph comes next. A variable that is
    given is not drawn, and neither is what only given variables are drawn from.

    Args:
      graph: see `check_graph`.
      wanted: names of variables; None is all of them.
      given: names of variables that the user has.

    Raises:
      ValueError: the graph is wrong, or the graph has no variable of a name; all are listed.
    """
    check_graph(graph)
    factors = {factor.variable: factor for factor in graph}
    wanted, given = _names(factors if wanted is None else wanted), _names(given)
    _raise(
        [
            unknown_name(f"{role} variable", name, factors)
            for role, names in (("wanted", wanted), ("given", given))
            for name in names
            if name not in factors
        ]
    )
    needed: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in given and name not in needed:
            needed.add(name)
            waiting += factors[name].parents
    order: list[Factor] = []
    while needed:
        ready = (f for f in graph if f.variable in needed and not needed.intersection(f.parents))
        order.append(next(ready))
        needed.remove(order[-1].variable)
    return tuple(order)


def groups(
    order: FactorGraph, mode: Mode, waiting: Collection[str] = ()
) -> tuple[FactorGraph, ...]:
    """Returns the factors in groups that are sampled one after the other.

    "sequential" draws each variable to the end before the next. "joint" lets as many as possible
    advance together, a step of the parents and a step of their children in turn. A factor that
    sees its parents as images cannot take part in its parents' group: it would need their images
    at every step, and before the last there are none, only latents, noisy or predicted. Decoding
    predictions would cost a pass of the autoencoder in every step and show the network blurred
    maps that it was not trained on. So it begins when its parents are done; adapters on what it
    draws advance with it. The same holds for adapters that were trained on clean latents.

    Args:
      order: of `sampling_order`; parents that are not in it count as given.
      mode: "sequential" or "joint".
      waiting: variables of adapters that begin when their parents are done.

    Raises:
      ValueError: the mode is unknown.
    """
    if mode not in get_args(Mode):
        raise ValueError(unknown_name("sampling mode", mode, get_args(Mode)))
    if mode == "sequential":
        return tuple((factor,) for factor in order)
    group_of: dict[str, int] = {}
    for factor in order:
        latest = max((group_of.get(parent, -1) for parent in factor.parents), default=-1)
        after = factor.kind in _KINDS_OF_IMAGES or factor.variable in waiting
        group_of[factor.variable] = latest + 1 if after else max(latest, 0)
    return tuple(
        tuple(factor for factor in order if group_of[factor.variable] == index)
        for index in sorted(set(group_of.values()))
    )


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> str:
    """Returns the message for a name that is not known, with the nearest one that is."""
    known = list(known)
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}choose one of {', '.join(known)}"


def _names(names: Iterable[str]) -> list[str]:
    """Returns the names as a list; a text is one name, not its letters."""
    return [names] if isinstance(names, str) else list(names)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))


def _name_problems(factor: Factor, drawn: Iterable[str]) -> list[str]:
    problems = []
    if factor.variable not in VARIABLES:
        problems.append(unknown_name("variable", factor.variable, VARIABLES))
    for parent, count in collections.Counter(factor.parents).items():
        if count > 1:
            problems.append(f"parent {parent!r} is named {count} times; name it once")
        if parent not in VARIABLES:
            problems.append(unknown_name("parent", parent, VARIABLES))
        elif parent not in drawn:
            problems.append(
                f"parent {parent!r} has no factor; add Factor({parent!r}), which is not drawn when "
                "you give the variable"
            )
    return problems


def _kind_problems(factor: Factor) -> list[str]:
    parents = ", ".join(factor.parents) or "none"
    if factor.kind not in get_args(Kind):
        return [unknown_name("kind", factor.kind, get_args(Kind))]
    if factor.kind == "prior" and factor.parents:
        return [
            f"'prior' is Stable Diffusion alone and takes no parents, got {parents}; "
            "kind='adapter' takes them"
        ]
    if factor.kind == "controlnet" and len(factor.parents) != 1:
        return [f"a ControlNet takes exactly one parent, got {parents}"]
    if factor.kind == "cnc" and factor.variable != "image":
        return ["Compose and Conquer draws images, nothing else"]
    if factor.kind == "cnc" and sorted(factor.parents) != sorted(LAYERED_DEPTH):
        return [
            f"Compose and Conquer takes the parents {' and '.join(LAYERED_DEPTH)}, got {parents}"
        ]
    return []


def _number_problems(factor: Factor) -> list[str]:
    problems = []
    size, steps = factor.size, factor.num_steps
    if size is not None and not _is_size(size):
        problems.append(f"size must be (height, width), multiples of {_SIZE_STEP}, got {size}")
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        problems.append(f"num_steps must be a whole number of at least 1, got {steps!r}")
    return problems


def _is_size(size: Any) -> bool:
    return (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(side, int) and side > 0 and side % _SIZE_STEP == 0 for side in size)
    )


def _cycles(graph: FactorGraph) -> list[tuple[str, ...]]:
    """Returns cycles, each from parent to child and closed; at least one of every knot of them."""
    parents = {factor.variable: factor.parents for factor in reversed(graph)}
    cycles: list[tuple[str, ...]] = []
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            cycles.append((*path[path.index(name) :], name)[::-1])
        elif name not in done:
            for parent in dict.fromkeys(parents.get(name, ())):
                visit(parent, (*path, name))
            done.add(name)

    for factor in graph:
        visit(factor.variable, ())
    return cycles

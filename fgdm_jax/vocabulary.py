"""The objects that a caption asks for, by the names of a palette's classes.

A caption is cut into words, and from left to right the longest phrase that is known is taken, known
to any palette: "hot dog" is no dog, also where there is no class for it. A phrase leads to

    1. the class of that name. A class may have several, "sofa;couch"; "wall-brick" is a brick wall,
       and "sky-other" is the sky;
    2. else the class with another name of the same thing (`fgdm_jax.words.SAME`);
    3. else the class of which it is a kind (`KINDS`): a puppy is a dog, and where there is no class
       for dogs, an animal.

It is a thing unless it is denied ("no cars"), is a colour or a material ("an orange cat", "a wood
floor") or says what the next noun is for ("cat food"), see `fgdm_jax.compounds`. This is a word
list, not a parser: it reads captions like COCO's well, not poems. Who knows the objects gives them
(`check_objects`).
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from fgdm_jax import compounds
from fgdm_jax.words import IRREGULAR, KINDS, SAME

COCO_NEVER_LABELLED = (
    "street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door",
    "blender", "hair brush",
)  # fmt: skip
"""Classes of COCO's numbering that no picture of the data set has, so that no model draws them."""

_NO_OBJECTS = frozenset(["other", "unlabeled", "unlabelled", "void", "background"])
_NO_OBJECT_HEADS = frozenset(["solid", "structural"])
_IN_LISTS = frozenset(["a", "an", "the", "or", "nor", "of", "and"])
_UNSPECIFIED = ("other", "stuff")
_HEAD_OF_A_KIND = 9
_MADE_OF = {"wood": "wooden", "tile": "tiled", "stone": "stony", "concrete": "cement"}
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]")


class Phrase(NamedTuple):
    """What a phrase of a caption leads to.

    Attributes:
      classes: numbers of the classes that it asks for; empty if there is none for it.
      is_plural: whether it says that there are several.
    """

    classes: tuple[int, ...]
    is_plural: bool


def objects_in(
    caption: str, classes: Sequence[str], *, leave_out: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns the classes that a caption asks for, each once, in order of appearance.

    Args:
      caption: an English sentence or a few; without any object, such as "", the result is empty.
      classes: names of the palette's classes by number.
      leave_out: names of classes that are never asked for, such as `COCO_NEVER_LABELLED`; a word
        then leads to the next best class.

    Raises:
      ValueError: `leave_out` names what is no class.
    """
    unknown = [name for name in leave_out if name not in classes]
    if unknown:
        raise ValueError(f"leave_out names {unknown}, expected names of the palette's classes")
    lexicon = _lexicon(tuple(classes), frozenset(leave_out))
    found: dict[int, None] = {}
    for phrase in _things(_tokens(caption), lexicon):
        found.update(dict.fromkeys(phrase.classes))
    return tuple(classes[number] for number in found)


def classes_of(name: str, classes: Sequence[str]) -> tuple[int, ...]:
    """Returns the numbers of all classes that count as an object, in ascending order.

    A class counts as itself; one of the same thing ("door" and "door-stuff") and its kinds do too:
    "wall-other" is any wall, "wall-brick" only one of bricks.

    Args:
      name: of a class, or another word for it.
      classes: names of the palette's classes by number.

    Raises:
      ValueError: there is no class for it; with the nearest one.
    """
    (known,) = check_objects([name], classes)
    reach = {word for word, distance in _reach(known).items() if distance < _HEAD_OF_A_KIND}
    heads = set(_names(known))
    return tuple(
        number
        for number, other in enumerate(classes)
        if _is_askable(other)
        and (other == known or reach & set(_names(other)) or other.split("-")[0] in heads)
    )


def check_objects(names: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the classes for objects that a user names, each once.

    Args:
      names: of classes, or other words for them, in singular or plural.
      classes: names of the palette's classes by number.

    Raises:
      ValueError: lists all that no class is known for, each with the nearest one.
    """
    found: dict[str, None] = {}
    problems = []
    for name in names:
        numbers = _numbers_of(name, classes)
        found.update(dict.fromkeys(classes[number] for number in numbers))
        if not numbers:
            near = nearest_class(name, classes)
            hint = f"; did you mean {near!r}?" if near else ""
            problems.append(f"there is no class for {name!r}{hint}")
    if problems:
        known = [name for name in classes if _is_askable(name)]
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        problems.append(f"name some of the {len(known)} classes: {shown}")
        raise ValueError("\n- ".join(["unknown objects:", *problems]))
    return tuple(found)


def nearest_class(name: str, classes: Sequence[str]) -> str | None:
    """Returns the class that a name leads to or is spelled most like, None if it is like none.

    Args:
      name: any text.
      classes: names of the palette's classes by number.
    """
    numbers = _numbers_of(name, classes)
    if numbers:
        return classes[numbers[0]]
    lexicon = _lexicon(tuple(classes), frozenset())
    known = [" ".join(words) for words, phrase in lexicon.items() if phrase.classes]
    near = difflib.get_close_matches(" ".join(_tokens(name)), known, n=1, cutoff=0.75)
    return classes[lexicon[tuple(near[0].split())].classes[0]] if near else None


def _numbers_of(name: str, classes: Sequence[str]) -> tuple[int, ...]:
    if name in classes:
        return (classes.index(name),)
    phrase = _lexicon(tuple(classes), frozenset()).get(tuple(_tokens(name)))
    return phrase.classes if phrase else ()


def _tokens(text: str) -> list[str]:
    """Returns the words, in lower case, and the marks between them; a possessive is a mark."""
    text = text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = re.sub(r"(?<=\w)'s\b", " ' ", text)
    return _TOKEN.findall(re.sub(r"[-_/]", " ", text))


def _things(tokens: list[str], lexicon: dict[tuple[str, ...], Phrase]) -> Iterator[Phrase]:
    """Yields the phrases that are things to be drawn, from left to right."""
    longest = max(map(len, lexicon), default=0)

    def phrase_at(start: int) -> tuple[int, Phrase | None]:
        for end in range(min(len(tokens), start + longest), start, -1):
            phrase = lexicon.get(tuple(tokens[start:end]))
            if phrase is not None:
                return end, phrase
        return start + 1, None

    start, is_denied = 0, False
    while start < len(tokens):
        end, phrase = phrase_at(start)
        if phrase is None:
            is_denied = _denies(tokens[start], is_denied)
        else:
            next_phrase = phrase_at(end)[1] if end < len(tokens) else None
            is_property = _is_property(tokens, start, end, phrase, next_phrase)
            if not is_denied and not is_property:
                yield phrase
            if is_denied and not is_property:
                is_denied = _goes_on(tokens[end : end + 2])
                end += is_denied  # the "or" itself is read
        start = end


def _denies(token: str, was_denied: bool) -> bool:
    """Returns whether what follows a word is denied: up to a mark, or a word like "in"."""
    if token in compounds.NEGATIONS:
        return True
    return was_denied and token.isalnum() and token not in compounds.FUNCTION_WORDS - _IN_LISTS


def _goes_on(following: list[str]) -> bool:
    """Returns whether a denial goes on after a thing: "no cars or people", not "no cars and a"."""
    joint, after = [*following, ".", "."][:2]
    return joint in ("or", "nor") or (joint in ("and", ",") and after not in ("a", "an", "the"))


def _is_property(
    tokens: list[str], start: int, end: int, phrase: Phrase, next_phrase: Phrase | None
) -> bool:
    """Returns whether a phrase says of what colour, of what or for what the next thing is."""
    word, following = tokens[end - 1], tokens[end] if end < len(tokens) else "."
    is_last = not following.isalnum() or following in compounds.FUNCTION_WORDS
    if end == start + 1 and word in compounds.ADJECTIVES:
        is_last = is_last or (next_phrase is None and following.endswith("ing"))
        return not is_last or _is_described(tokens, start, end)
    if phrase.is_plural or word in compounds.NATURALLY_TOGETHER:
        return False
    if following in compounds.VERBS and "and" in tokens[max(0, start - 4) : start]:
        return False
    # Without a verb known, a noun right after a noun in the singular is taken for its head.
    is_noun = next_phrase is not None and following not in compounds.ADJECTIVES
    return following in compounds.HEADS or (is_noun and not is_last)


def _is_described(tokens: list[str], start: int, end: int) -> bool:
    """Returns whether a colour or material stands where properties stand: "is orange"."""
    before, after = [".", ".", *tokens[:start]][-2:], [*tokens[end:], ".", "."][:2]
    if before[1] in ("is", "are", "was", "were", "painted", "coloured", "colored", "bright"):
        return True
    if before[1] in ("of", "from") and before[0] in ("made", "out", "built", "composed"):
        return True
    return (before[1] == "and" and before[0] in compounds.COLOURS) or (
        after[0] == "and" and after[1] in compounds.COLOURS and tokens[start] in compounds.COLOURS
    )


@functools.lru_cache(maxsize=16)
def _lexicon(classes: tuple[str, ...], leave_out: frozenset[str]) -> dict[tuple[str, ...], Phrase]:
    """Returns what each known phrase leads to; by its words, in singular and in plural."""
    nearest: dict[str, tuple[int, int, int]] = {}
    for number, name in enumerate(classes):
        if not _is_askable(name) or name in leave_out:
            continue
        reach = _reach(name)
        for word, distance in reach.items():
            # Of two that are as near, the one with fewer kinds: a minivan is a van before a car.
            rank = (distance, len(reach), number)
            nearest[word] = min(nearest.get(word, rank), rank)
    known: dict[str, tuple[int, ...]] = dict.fromkeys(_all_words(), ())
    known.update({word: (number,) for word, (_, _, number) in nearest.items()})
    for shown, phrases in _compounds():
        numbers = tuple(nearest[word][2] for word in shown if word in nearest)
        for word in phrases:
            # A class of just this name is asked for all the same.
            if nearest.get(word, (1,))[0] > 0:
                known[word] = tuple(dict.fromkeys(numbers))
    lexicon = {tuple(_plural(word).split()): Phrase(n, True) for word, n in known.items()}
    # Last, so that what is listed wins: "glasses" are worn, and no plural of glass.
    lexicon |= {tuple(word.split()): Phrase(n, _is_plural(word)) for word, n in known.items()}
    return lexicon


def _reach(name: str) -> dict[str, int]:
    """Returns the words that lead to a class, and how far they are from its name."""
    own = _names(name)
    reach = dict.fromkeys(own, 0)
    if "-" in name and name.split("-")[-1] not in _UNSPECIFIED:
        # "wall" leads to "wall-brick" only where no class is any wall's.
        reach.setdefault(name.split("-")[0], _HEAD_OF_A_KIND)
    frontier = list(own)
    while frontier:
        word = frontier.pop(0)
        near = [(other, 1) for other in _same().get(word, ())]
        near += [(other, 2) for other in _listed(KINDS.get(word, ""))]
        for other, step in near:
            if other not in reach or reach[other] > reach[word] + step:
                reach[other] = reach[word] + step
                frontier.append(other)
    return reach


def _names(name: str) -> tuple[str, ...]:
    """Returns the phrases that name a class, as they stand in its name."""
    names: list[str] = []
    for one in re.split(r"[;,]", name.casefold().replace("_", " ")):
        head, _, kind = one.strip().partition("-")
        if kind in _UNSPECIFIED:
            names.append(head)
            continue
        names.append(" ".join(_tokens(one)))
        if kind:
            names += [f"{kind} {head}", f"{head} of {kind}"]
            names += [f"{_MADE_OF[kind]} {head}"] if kind in _MADE_OF else []
    singular = [one[:-1] for one in names if re.search(r"[^usi]s$", one)]
    return tuple(dict.fromkeys([*names, *singular]))


def _is_askable(name: str) -> bool:
    head = name.casefold().split("-")[0]
    return name.casefold() not in _NO_OBJECTS and head not in _NO_OBJECT_HEADS


def _plural(phrase: str) -> str:
    """Returns the plural of a phrase: of its last word, or of that before "of", "in" or "a"."""
    head, joint, rest = next(
        (parts for joint in (" of ", " in ") if (parts := phrase.partition(joint))[1]),
        (phrase, "", ""),
    )
    *before, word = head.split()
    if word in IRREGULAR:
        word = IRREGULAR[word]
    elif re.search(r"(s|x|z|ch|sh)$", word):
        word += "es"
    elif re.search(r"[^aeiou]y$", word):
        word = word[:-1] + "ies"
    else:
        word += "s"
    return " ".join([*before, word]) + joint + rest


def _is_plural(phrase: str) -> bool:
    word = phrase.split()[-1]
    return word == "people" or bool(re.search(r"[^usi]s$", word))


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


@functools.cache
def _same() -> dict[str, tuple[str, ...]]:
    same: dict[str, tuple[str, ...]] = {}
    for group in map(_listed, SAME):
        for word in group:
            same[word] = (*same.get(word, ()), *(other for other in group if other != word))
    return same


@functools.cache
def _all_words() -> tuple[str, ...]:
    kinds = [word for key, listed in KINDS.items() for word in (key, *_listed(listed))]
    return tuple(dict.fromkeys([*_same(), *kinds]))


@functools.cache
def _compounds() -> tuple[tuple[list[str], list[str]], ...]:
    """Returns phrases and the words for what they show, those of parts among them."""
    parts = [
        ([whole], [f"{whole} {part}" for part in _listed(listed)])
        for wholes, listed in compounds.WHOLES.items()
        for whole in _listed(wholes)
    ]
    whole = [(_listed(shown), _listed(phrases)) for shown, phrases in compounds.COMPOUNDS.items()]
    return (*parts, *whole)

"""Scenes in words: captions that are true of them, and where each object is."""

from __future__ import annotations

from input_pipeline.scenes.scene import Scene, SceneObject
from input_pipeline.scenes.surfaces import accent

_NUMBERS = ("no", "one", "two", "three", "four")
_ADJECTIVES = {"stripes": "striped", "dots": "dotted", "checks": "checkered"}
_IN_PLACE = {
    "meadow": "in a meadow",
    "desert": "in the desert",
    "snow": "in the snow",
    "night": "in a field at night",
    "beach": "on a beach",
    "room": "in a room",
}
_PLACE = {
    "meadow": "a green meadow under a blue sky",
    "desert": "a sandy desert",
    "snow": "a field of snow before mountains",
    "night": "a dark field under the stars",
    "beach": "a beach by the sea",
    "room": "a room with a wooden floor",
}
# In sides of the picture's square.
_BESIDE = 0.1
_OFF_MIDDLE = 0.12
# In heights of the camera.
_FAR = 6.0


def captions(scene: Scene) -> list[str]:
    """Returns five captions of a scene, all different, from the shortest to the fullest kind."""
    first, others = scene.objects[0], scene.objects[1:]
    where = _IN_PLACE[scene.place]
    side = _side(first)
    if not others:
        return [
            f"{name(first)} {where}",
            f"{long_name(first)} standing alone {where}",
            f"one object {where}: {name(first)}",
            f"a close view of {long_name(first)} {side}, {where}",
            f"{_PLACE[scene.place]} with {name(first)} in the foreground {side}",
        ]
    named = _listed([name(item) for item in others])
    related = _listed([f"{long_name(item)} {_relation(item, first)}" for item in others])
    closest = min(others, key=lambda item: abs(item.across - first.across))
    rest = f"{_NUMBERS[len(others)]} other object{'s' if len(others) > 1 else ''}"
    return [
        f"{name(first)} {where}",
        f"{name(first)} in front of {long_name(closest)} {where}",
        f"{long_name(first)} {where}, and behind it {named}",
        f"{_NUMBERS[len(scene.objects)]} objects {where}: {name(first)} {side}, {related}",
        f"{_PLACE[scene.place]} with {name(first)} in the foreground {side} and {rest} behind it",
    ]


def name(item: SceneObject) -> str:
    """Returns a short name, such as `a striped red ball`."""
    adjective = _ADJECTIVES.get(item.texture)
    return _with_article(" ".join(filter(None, (adjective, item.colour, item.shape))))


def long_name(item: SceneObject) -> str:
    """Returns a name that tells the texture's colour, such as `a red ball with white stripes`."""
    short = _with_article(f"{item.colour} {item.shape}")
    if item.texture == "plain":
        return short
    return f"{short} with {accent(item.colour)} {item.texture}"


def place_in_words(item: SceneObject, *, is_foreground: bool) -> str:
    """Returns where an object is in its scene, such as `far away on the left`."""
    if is_foreground:
        return f"in the foreground {_side(item)}"
    return f"{'far away' if item.z > _FAR else 'farther back'} {_side(item)}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _side(item: SceneObject) -> str:
    if abs(item.across) < _OFF_MIDDLE:
        return "in the middle"
    return "on the left" if item.across < 0 else "on the right"


def _relation(item: SceneObject, first: SceneObject) -> str:
    """Returns where an object is as seen from the foreground object."""
    distance = "far behind it" if item.z > _FAR else "behind it"
    apart = item.across - first.across
    if abs(apart) < _BESIDE:
        return distance
    return f"{distance} to the {'left' if apart < 0 else 'right'}"


def _listed(names: list[str]) -> str:
    """Returns names joined by commas and an `and`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last

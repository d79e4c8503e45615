"""What pydantic finds wrong with a body, in plain words: the place and a sentence. Knows no request in particular.

A union complains once for every member; here the members that fit the kind of value speak, without their names.
Called by `body` for routes that check their bodies themselves and by the gateway for those that FastAPI checks.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Error = Mapping[str, Any]
Place = tuple[str | int, ...]

MOST_ERRORS = 100
"""That are looked at: a list has one for every item."""

OBJECT = "Input should be an object"
WORDS = {
    "model_type": OBJECT,
    "model_attributes_type": OBJECT,
    "dict_type": OBJECT,
    "list_type": "Input should be a list",
    "string_type": "Input should be a text",
    "bool_type": "Input should be true or false",
    "too_short": "Input should not be empty",
}
"""By pydantic's type of error, where its own message speaks of Python."""


def complaint(errors: Sequence[Error], body: object) -> tuple[str, str]:
    """The place that is to blame in `body`, such as `tools[0].function.name`, empty for all of it, and a sentence."""
    if errors[0]["type"] == "json_invalid":
        return "", f"the body is not JSON: {errors[0]['ctx']['error']}"
    errors = errors[:MOST_ERRORS]
    placed = [(place_of(error, body), error) for error in errors if error["loc"][:1] == errors[0]["loc"][:1]]
    fitting = [(place, error) for place, error in placed if not _is_of_another_kind(place, error, placed)]
    tagged = [(place, error) for place, error in fitting if not _is_of_another_tag(error, errors)] or fitting
    deepest, _ = max(tagged, key=lambda each: len(each[0]))
    place = _spelled(deepest)
    return place, _sentence(place, [error for place, error in tagged if place == deepest])


def place_of(error: Error, body: object) -> Place:
    """Where the error is in `body`: its location without the names of a union's members, all of it without a body."""
    if body is None or not error["loc"]:
        return tuple(error["loc"])
    found: list[str | int] = []
    of_a_key = error["type"] in ("missing", "extra_forbidden")
    for step in error["loc"]:
        if (isinstance(body, Mapping) and step in body) or (isinstance(body, list) and step in range(len(body))):
            if of_a_key and step != error["loc"][-1] and not isinstance(body[step], Mapping | list):
                continue  # a member's tag that is also the name of a key: what lacks a key is an object
            found.append(step)
            body = body[step]
    absent = of_a_key and found[-1:] != [error["loc"][-1]]
    return (*found, error["loc"][-1]) if absent else tuple(found)


def _is_of_another_kind(place: Place, error: Error, placed: list[tuple[Place, Error]]) -> bool:
    """Whether a union's member takes another kind of value, and another member takes this one."""
    return _wants_another_kind(error) and any(
        other[: len(place)] == place and (len(other) > len(place) or not _wants_another_kind(each))
        for other, each in placed
    )


def _wants_another_kind(error: Error) -> bool:
    literal = error["type"] == "literal_error" and not isinstance(error["input"], str)
    return literal or error["type"].endswith("_type")


def _is_of_another_tag(error: Error, errors: Sequence[Error]) -> bool:
    """Whether a union's member is of another `type` than the value says."""
    tags = [other["loc"] for other in errors if other["type"] == "literal_error" and other["loc"][-1:] == ("type",)]
    members = [tag[:-1] for tag in tags if len(tag) > 1]
    return any(error["loc"][: len(member)] == member for member in members)


def _spelled(place: Place) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return "".join(steps).removeprefix(".")


def _sentence(place: str, errors: list[Error]) -> str:
    """What is wrong at a place; several members of a union say together what they take."""
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return f"{place} is not supported"
    if first["type"] == "missing":
        return f"{place}: Field required" if place else "the body is missing"
    if first["type"] in ("value_error", "assertion_error"):  # from a validator of ours, which says it all
        text = str(first["msg"]).partition(", ")[2]
        return f"{place}: {text}" if place else text
    if first["type"] == "union_tag_invalid":
        tags = first["ctx"]["expected_tags"]
        return f"{place}.type: Input should be one of {tags}, not {_shown(first['ctx']['tag'])}"
    if first["type"] == "union_tag_not_found":
        return f"{place}.type: Field required"
    told: list[str] = list(dict.fromkeys(WORDS.get(error["type"]) or error["msg"] for error in errors))
    told[1:] = [each.removeprefix("Input should be ") for each in told[1:]]
    return f"{place or 'the body'}: {' or '.join(told)}, not {_shown(first['input'])}"


def _shown(value: object) -> str:
    try:
        return json.dumps(value, default=str)[:80]
    except RecursionError:
        return "something nested that deep"

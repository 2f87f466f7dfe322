"""Read YAML into pydantic models with errors that name file, line, path inside and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from .errors import BadInput, Misplaced

MAX_TEXT_BYTES = 1_000_000
# A longer list is not read, and each problem takes time to find.
_MOST_PROBLEMS = 30
_MERGE = "tag:yaml.org,2002:merge"
# Merges of merges can multiply without end.
_MOST_MERGED = 10_000


class Strict(BaseModel):
    """Base of every model that people write: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]


class InvalidPart(ValueError):
    """Problems in a part of a document whose model the document itself chooses.

    Parameters
    ----------
    model : type of BaseModel
        Model of the part.
    error : ValidationError
        All its problems.
    place : str or int
        Keys and positions that lead from the validated value to the part.
    """

    def __init__(self, model: type[BaseModel], error: ValidationError, *place: str | int) -> None:
        found = ("; ".join(_plain(item, place) for item in error.errors()),)
        super().__init__(*found)
        self.model, self.error, self.place = model, error, place


def _plain(item: ErrorDetails, place: Location) -> str:
    return f"{'.'.join(map(str, place + tuple(item['loc'])))}: {item['msg']}"


def read_text(path: Path) -> str:
    """Text of a small file, or :class:`BadInput` saying why it cannot be read."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise BadInput(str(path), f"larger than {MAX_TEXT_BYTES} bytes: not a recipe or a rig")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(str(path), "no such file") from None
    except IsADirectoryError:
        raise BadInput(str(path), "is a folder; name a YAML file") from None
    except UnicodeDecodeError:
        raise BadInput(str(path), "is not text (UTF-8), so it is not YAML") from None
    except OSError as error:
        raise BadInput(str(path), f"cannot be read: {error.strerror}") from None


def load_model(model: type[Model], text: str, name: str, list_is: str = "") -> Model:
    """Validate YAML text as a model.

    Parameters
    ----------
    model : type of BaseModel
        What the text should describe.
    text : str
        The YAML.
    name : str
        File name for messages.
    list_is : str, optional
        Key whose value a document may be that is a list.

    Returns
    -------
    BaseModel
        The validated model.

    Raises
    ------
    BadInput
        With one line per problem: file, line, path inside, what is wrong, what would be right.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_repeats(node)
        data = yaml.load(text, Loader=_CarefulLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or str(error)
        raise BadInput(where, f"is not valid YAML: {problem}") from None
    if list_is and isinstance(data, list):
        data = {list_is: data}
        node = _under(list_is, node)
    if not isinstance(data, dict):
        keys = ", ".join(str(field) for field in model.model_fields)
        raise BadInput(name, f"should be a YAML mapping with the keys {keys}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        problems = [
            text for item in found[:_MOST_PROBLEMS] for text in _described(model, node, name, item)
        ]
        if len(found) > _MOST_PROBLEMS:
            problems.append(f"{name}: and {len(found) - _MOST_PROBLEMS} problems more")
        raise BadInput("", "\n".join(dict.fromkeys(problems))) from None


def located(text: str, name: str, path: str) -> str:
    """Where a path stands in a YAML text: ``FILE:LINE: PATH``.

    Parameters
    ----------
    text : str
        Valid YAML.
    name : str
        File name for messages.
    path : str
        Keys joined by dots, such as ``heater.options.data_endpoint``; where the text does not have
        the last ones, the line of those before is given.
    """
    keys = tuple(int(key) if key.isdecimal() else key for key in path.split("."))
    line, reached = _locate(yaml.compose(text, Loader=yaml.SafeLoader), keys)
    return f"{name}:{line}: {path}" if line and reached else f"{name}: {path}"


def _under(key: str, node: yaml.Node | None) -> yaml.Node | None:
    if node is None:
        return None
    word = yaml.ScalarNode("tag:yaml.org,2002:str", key, node.start_mark, node.start_mark)
    return yaml.MappingNode("tag:yaml.org,2002:map", [(word, node)], node.start_mark)


class _CarefulLoader(yaml.SafeLoader):
    """Safe loader whose errors say where a tag and a value disagree."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does it, which lets several errors through where a tag and a value disagree."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError, TypeError, LookupError, OverflowError):
            written, kind = str(node.value), str(node.tag).rpartition(":")[2]
            text = written if len(written) <= 40 else written[:40] + "..."
            raise yaml.constructor.ConstructorError(
                problem=f"{text!r} is not a valid {kind}", problem_mark=node.start_mark
            ) from None


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping in which a key of its own replaces one that is merged (``<<``)."""
    result: dict[Any, Any] = {}
    for part in reversed(_merged_from(node)):
        result.update(loader.construct_object(part, deep=True))
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.constructor.ConstructorError(
                problem="keys must be plain words", problem_mark=key_node.start_mark
            )
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_CarefulLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _refuse_repeats(root: yaml.Node | None) -> None:
    """Refuse a key that a mapping has twice, and merges that name themselves or grow too large.

    Raises
    ------
    yaml.YAMLError
        With the place.
    """
    counted: dict[int, int] = {}
    seen: set[int] = set()
    left = [root]
    while left:
        node = left.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            _refuse_repeated_key(node)
            _merged_keys(node, counted)
            left += [part for pair in node.value for part in pair]


def _refuse_repeated_key(node: yaml.MappingNode) -> None:
    names: set[tuple[str, str]] = set()
    for key, _ in node.value:
        name = (key.tag, str(key.value))
        if isinstance(key, yaml.ScalarNode) and name in names:
            remedy = "; to merge several, write a list: <<: [*a, *b]" if key.tag == _MERGE else ""
            raise yaml.constructor.ConstructorError(
                problem=f"the key {key.value!r} is written twice{remedy}",
                problem_mark=key.start_mark,
            )
        names.add(name)


def _merged_from(node: yaml.MappingNode) -> list[yaml.MappingNode]:
    """The mappings that a mapping merges, the first of which wins."""
    found: list[yaml.MappingNode] = []
    for key, value in node.value:
        if key.tag == _MERGE:
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(part, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(
                        problem="merging (<<) takes a mapping, as in <<: *name, or a list of them",
                        problem_mark=part.start_mark,
                    )
                found.append(part)
    return found


def _merged_keys(node: yaml.MappingNode, counted: dict[int, int]) -> int:
    """Number of keys of a mapping together with those that it merges."""
    if id(node) not in counted:
        counted[id(node)] = _MOST_MERGED + 1  # what is found while it is counted merges itself
        merged = sum(_merged_keys(part, counted) for part in _merged_from(node))
        counted[id(node)] = len(node.value) + merged
        if merged and counted[id(node)] > _MOST_MERGED:
            raise yaml.constructor.ConstructorError(
                problem=f"it merges itself or more than {_MOST_MERGED} keys",
                problem_mark=node.start_mark,
            )
    return counted[id(node)]


def _described(
    model: type[BaseModel],
    node: yaml.Node | None,
    name: str,
    item: ErrorDetails,
    above: Location = (),
) -> Iterator[str]:
    """Describe a problem, or each of those in a part with a model of its own."""
    cause = item.get("ctx", {}).get("error")
    if not isinstance(cause, InvalidPart):
        yield _describe(model, node, name, item, above)
        return
    for inner in cause.error.errors():
        place = above + tuple(item["loc"]) + cause.place
        yield from _described(cause.model, node, name, inner, place)


def _describe(
    model: type[BaseModel],
    node: yaml.Node | None,
    name: str,
    item: ErrorDetails,
    above: Location = (),
) -> str:
    """Describe a problem of a model that stands at the place `above` of the document."""
    loc, kind, given = tuple(item["loc"]), item["type"], item["input"]
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, Misplaced):
        loc += cause.place
    line, reached = _locate(node, above + loc)
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in reached).lstrip(".")
    # What concerns the whole has no line.
    where = f"{name}:{line}" if line and above + loc else name
    if path:
        where = f"{where}: {path}"
    message = item["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = "unknown key" + _suggest(model, loc)
    elif kind == "missing":
        message = "required key is missing"
    elif kind == "model_type":
        message = f"should be a mapping with one or more of the keys {_keys_at(model, loc)}"
    elif message.startswith("Input should be") and isinstance(given, str | int | float):
        message = f"{message}, not {given!r}"
    return f"{where}: {message}"


def _locate(node: yaml.Node | None, loc: Location) -> tuple[int | None, Location]:
    """Line of a location in the YAML tree, and the part of the location that stands there."""
    line = node.start_mark.line + 1 if node is not None else None
    reached: list[str | int] = []
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = _pair(node, str(part))
            if found is None:
                if isinstance(part, str):
                    reached.append(part)
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            item: yaml.Node = node.value[part]
            line, node = item.start_mark.line + 1, item
        else:
            break
        reached.append(part)
    return line, tuple(reached)


def _pair(node: yaml.MappingNode, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Key and value of a name in a mapping, or in what it merges."""
    for key, value in node.value:
        if key.value == name:
            return key, value
    for part in _merged_from(node):
        found = _pair(part, name)
        if found is not None:
            return found
    return None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that a value of this type may be, or hold as the items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _models_at(model: type[BaseModel], loc: Location) -> list[type[BaseModel]]:
    """Models of what stands at a location."""
    models = [model]
    for part in loc:
        fields = [
            field
            for m in models
            for name, field in m.model_fields.items()
            if part in (name, field.alias)
        ]
        # Positions, and the names that pydantic gives to the kinds of a union, lead no deeper.
        if fields:
            models = [m for field in fields for m in _models_in(field.annotation)]
    return models


def _keys_at(model: type[BaseModel], loc: Location) -> str:
    known = [f.alias or name for m in _models_at(model, loc) for name, f in m.model_fields.items()]
    return ", ".join(dict.fromkeys(known))


def _suggest(model: type[BaseModel], loc: Location) -> str:
    """The nearest key, and the keys that a mapping at this place takes."""
    known = _keys_at(model, loc[:-1])
    nearest = difflib.get_close_matches(str(loc[-1]), known.split(", "), n=1)
    return f"; did you mean '{nearest[0]}'?" if nearest else f"; known keys: {known}"

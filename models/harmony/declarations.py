"""Tools as the TypeScript-like declarations that gpt-oss reads in a developer message.

To the byte what OpenAI's `openai-harmony` 0.0.8 writes, its layout of comments included; where that library only says
`any` (`anyOf`, `$ref`, `const`, `enum` without a type, `allOf`, null, tuples) the type itself is written. Knows JSON
Schema, neither tokens nor conversations. Called by `rendering`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from configs.errors import RequestError
from models.harmony.conversation import checked_name

MOST_EXPANDED = 2**18
"""Characters that the `$ref`s of one tool may grow into: definitions that name each other twice double at each step."""

_NULL = "nul\0l"
"""`null` where `openai-harmony` says `any`: whether it adds ` | null` to a type depends on its own words inside."""


def declare(tools: Sequence[Mapping[str, Any]]) -> str:
    """The section `# Tools` of a developer message, for functions in OpenAI's shape.

    Raises RequestError, with `param` "tools", that names the tool and the parameter that is not a JSON Schema.
    """
    lines = ["# Tools", "", "## functions", "", "namespace functions {", ""]
    for index, tool in enumerate(tools):
        lines += [*_declaration(tool, f"tools[{index}]"), ""]
    return "\n".join([*lines, "} // namespace functions"])


def _declaration(tool: Mapping[str, Any], where: str) -> list[str]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type") != "function":
        raise RequestError(f"{where}: only tools of type 'function' are supported", param="tools")
    name = checked_name(function.get("name"), f"{where}.function", "tools")
    parameters = function.get("parameters")
    arguments = ""
    if parameters is not None:
        arguments = f"_: {_Types(parameters, f'{where}.function ({name})').of(parameters, '', 'parameters')}"
    return [*(f"// {line}" for line in _lines(function.get("description"))), f"type {name} = ({arguments}) => any;"]


def _lines(text: Any) -> list[str]:
    """Lines as Rust counts them: they end in a newline, with or without a carriage return before it."""
    if not isinstance(text, str):
        return []
    *ended, last = text.split("\n")
    return [line.removesuffix("\r") for line in ended] + ([last] if last else [])


class _Types:
    """JSON Schemas of one tool as types. `root` is what its `$ref`s point into, `tool` its name in errors."""

    def __init__(self, root: Any, tool: str) -> None:
        self._root, self._tool = root, tool
        self._open: list[str] = []
        """References that are being written, the outermost first."""
        self._recursive: set[str] = set()
        self._expanded = 0

    def of(self, schema: Any, indent: str, where: str) -> str:
        """The type that `schema`, found at `where`, stands for; its further lines begin with `indent`."""
        try:
            return self._type(schema, indent, where).replace(_NULL, "null")
        except RecursionError:
            raise self._wrong("parameters", "is nested too deep") from None

    def _type(self, schema: Any, indent: str, where: str) -> str:
        if schema is None or isinstance(schema, bool):
            return "never" if schema is False else "any"
        if not isinstance(schema, Mapping):
            raise self._wrong(where, f"is {schema!r:.60}, not a JSON Schema")
        if variants := self._list(schema, "oneOf", where):
            return self._variants(variants, indent, f"{where}.oneOf")
        kind = schema.get("type")
        if names := [name for name in kind if isinstance(name, str)] if isinstance(kind, list) else []:
            return " | ".join("number" if name == "integer" else name for name in names)
        match kind:
            case "object":
                return self._object(schema, indent, where)
            case "array":
                return self._array(schema, indent, where)
            case "string":
                texts = [f'"{each}"' for each in self._list(schema, "enum", where) if isinstance(each, str)]
                return " | ".join(texts) or "string"
            case "number" | "integer":
                return "number"
            case "boolean":
                return "boolean"
        return self._untyped(schema, indent, where).replace("null", _NULL)

    def _untyped(self, schema: Mapping[str, Any], indent: str, where: str) -> str:
        """The type of a schema that `openai-harmony` calls `any`."""
        if isinstance(schema.get("$ref"), str):
            return self._referred(schema["$ref"], indent, where)
        if variants := self._list(schema, "anyOf", where):
            if any(isinstance(each, Mapping) and isinstance(each.get("description"), str) for each in variants):
                return self._variants(variants, indent, f"{where}.anyOf")
            types = [self._type(each, indent, f"{where}.anyOf[{at}]") for at, each in enumerate(variants)]
            return " | ".join(dict.fromkeys(types))
        if parts := self._list(schema, "allOf", where):
            types = [self._type(each, indent, f"{where}.allOf[{at}]") for at, each in enumerate(parts)]
            return " & ".join(_grouped(each) for each in types) if len(types) > 1 else types[0]
        if "const" in schema:
            return _literal(schema["const"])
        if values := self._list(schema, "enum", where):
            return " | ".join(map(_literal, values))
        if schema.get("properties"):
            return self._object(schema, indent, where)
        if "items" in schema or "prefixItems" in schema:
            return self._array(schema, indent, where)
        return "null" if schema.get("type") == "null" else "any"

    def _referred(self, reference: str, indent: str, where: str) -> str:
        """What a reference into the schema itself points to; its name, inside of itself; `any` for other references."""
        if not _is_pointer(reference):
            return "any"
        name = reference.removeprefix("#").rpartition("/")[2] or "Arguments"
        if reference in self._open:
            self._recursive.add(reference)
            return name
        target = self._target(reference, where)
        self._open.append(reference)
        text = self._type(target, indent, f"{where}.{reference}")
        self._open.pop()
        self._expanded += len(text) + 1
        if self._expanded > MOST_EXPANDED:
            raise self._wrong(where, f"and the other references expand to more than {MOST_EXPANDED} characters")
        if reference in self._recursive and text.startswith("{"):
            return f"{indent}// {name}\n{text}"
        described = isinstance(target, Mapping) and isinstance(target.get("description"), str)
        if described and target.get("type") != "object":  # an object brings its own along
            return f"{indent}// {target['description']}\n{indent}{text}"
        return text

    def _target(self, reference: str, where: str) -> Any:
        """The schema at a JSON pointer (RFC 6901)."""
        found = self._root
        for key in unquote(reference).split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise self._wrong(where, f"refers to {reference!r:.80}, which is not there")
        return found

    def _object(self, schema: Mapping[str, Any], indent: str, where: str) -> str:
        properties = schema.get("properties") or {}
        if not isinstance(properties, Mapping):
            raise self._wrong(f"{where}.properties", f"is {properties!r:.60}, not an object")
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        lines = _comment(schema.get("description"), indent)
        lines.append("{")
        for key, value in properties.items():
            name = key if key in required else f"{key}?"
            lines += self._property(name, value, indent, f"{where}.properties.{key}")
        return "\n".join([*lines, f"{indent}}}"])

    def _property(self, name: str, schema: Any, indent: str, where: str) -> list[str]:
        """The lines of one property, its comments first."""
        given = schema if isinstance(schema, Mapping) else {}
        lines = [*_comment(given.get("title"), indent), f"{indent}//"] if isinstance(given.get("title"), str) else []
        choice = self._list(given, "oneOf", where)
        described = [] if choice else _comment(given.get("description"), indent)
        lines += [*described, *_examples(given, indent)]
        default = _default(given)
        if not choice:
            text = self._nullable(given, self._type(schema, f"{indent}    ", where))
            return [*lines, f"{indent}{name}: {text},{_trailing(default)}"]
        first = choice[0].get("description") if isinstance(choice[0], Mapping) else None
        above = _comment(given.get("description"), indent) if given.get("description") != first else []
        lines += [*above, *([f"{indent}// {default}"] if default else []), f"{indent}{name}:"]
        for at, variant in enumerate(choice):
            text = self._nullable(variant, self._type(variant, f"{indent}   ", f"{where}.oneOf[{at}]"))
            said = variant.get("description") if isinstance(variant, Mapping) else None
            unsaid = said == given.get("description") or (at == 0 and above)
            lines.append(f"{indent} | {text}{_trailing(None if unsaid else said, _default(variant))}")
        return [*lines, f"{indent},"]

    def _variants(self, variants: list[Any], indent: str, where: str) -> str:
        """A choice that is not a property of its own: each variant on a line, its comment behind it."""
        out = ""
        for at, variant in enumerate(variants):
            text = self._nullable(variant, self._type(variant, f"{indent}   ", f"{where}[{at}]"))
            said = variant.get("description") if isinstance(variant, Mapping) else None
            out += f"\n{indent} | {text}{_trailing(said, _default(variant, bare=False))}"
        return out

    def _array(self, schema: Mapping[str, Any], indent: str, where: str) -> str:
        items, positions = schema.get("items"), schema.get("prefixItems")
        if isinstance(items, list):  # a tuple, as JSON Schema had it until 2019-09
            positions, items = items, None
        if isinstance(positions, list) and not isinstance(items, Mapping):
            types = [self._type(each, indent, f"{where}.prefixItems[{at}]") for at, each in enumerate(positions)]
            return f"[{', '.join(types)}]"
        if "items" not in schema:
            return "Array<any>"
        text = self._type(items, indent, f"{where}.items")
        return f"{text if _has_type(items) else _grouped(text)}[]"

    @staticmethod
    def _nullable(schema: Any, text: str) -> str:
        nullable = isinstance(schema, Mapping) and schema.get("nullable") is True
        words = text if _has_type(schema) else text.replace(_NULL, "null")
        return f"{text} | null" if nullable and "null" not in words else text

    def _list(self, schema: Mapping[str, Any], key: str, where: str) -> list[Any]:
        """The list under `key`, empty where there is none."""
        value = schema.get(key)
        if not isinstance(value, list | None):
            raise self._wrong(f"{where}.{key}", f"is {value!r:.60}, not a list")
        return value or []

    def _wrong(self, where: str, what: str) -> RequestError:
        return RequestError(f"{self._tool}: {where} {what}", hint="send a JSON Schema", param="tools")


def _is_pointer(reference: str) -> bool:
    return reference == "#" or reference.startswith("#/")


def _has_type(schema: Any) -> bool:
    """Whether `openai-harmony` has a word of its own for it."""
    if not isinstance(schema, Mapping):
        return False
    kind = schema.get("type")
    known = kind in ("object", "array", "string", "number", "integer", "boolean") if isinstance(kind, str) else kind
    return bool(known or schema.get("oneOf"))


def _grouped(text: str) -> str:
    return f"({text})" if " | " in text or " & " in text else text


def _comment(text: Any, indent: str) -> list[str]:
    return [f"{indent}// {text}"] if isinstance(text, str) else []


def _examples(schema: Mapping[str, Any], indent: str) -> list[str]:
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return []
    return [f"{indent}// Examples:", *(f'{indent}// - "{each}"' for each in examples if isinstance(each, str))]


def _default(schema: Any, *, bare: bool = True) -> str | None:
    """What a comment says of a default; with `bare`, one that is a name of an enum goes without quotation marks."""
    if not isinstance(schema, Mapping) or "default" not in schema:
        return None
    default = schema["default"]
    if not isinstance(default, str):
        return f"default: {_literal(default)}"
    if schema.get("enum"):
        return f"default: {default if bare else _literal(default)}"
    return f'default: "{default}"'


def _trailing(*comments: Any) -> str:
    said = [each for each in comments if isinstance(each, str)]
    return f" // {' '.join(said)}" if said else ""


def _literal(value: Any) -> str:
    """Compact JSON as Rust's serde_json writes it."""
    match value:
        case float():
            return _float(value)
        case int() if not isinstance(value, bool) and not -(2**63) <= value < 2**64:
            return _float(float(value)) if abs(value) < 2**1023 else str(value)
        case Mapping():
            return f"{{{','.join(f'{_literal(str(key))}:{_literal(each)}' for key, each in value.items())}}}"
        case list() | tuple():
            return f"[{','.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _float(value: float) -> str:
    """The shortest digits that give `value` back; an exponent from 1e16 and below 1e-5 on."""
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if exponent == "-05":  # the one exponent that Python writes and ryu does not
        sign, digits = ("-", mantissa[1:]) if value < 0 else ("", mantissa)
        return f"{sign}0.0000{digits.replace('.', '')}"
    return f"{mantissa}e{int(exponent)}" if exponent else text

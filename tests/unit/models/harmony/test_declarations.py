"""JSON Schemas of tools as gpt-oss reads them: whatever OpenAI takes is written, what is wrong is named."""

import pytest

from configs.errors import RequestError
from models.harmony.declarations import MOST_EXPANDED, declare


def tool(parameters, name: str = "f", **more) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def argument(schema, **definitions) -> str:
    """What stands between the braces for the one argument that `schema` describes."""
    text = declare([tool({"type": "object", "properties": {"x": schema}, "$defs": definitions})])
    return text.partition("type f = (_: {\n")[2].partition("\n}) => any;")[0]


def test_a_tool_is_its_description_and_its_arguments_with_their_comments():
    city = {"type": "string", "description": "With its country.", "examples": ["Rome, Italy"], "title": "City"}
    level = {"type": "integer", "enum": [1, 2, 3], "default": 2}
    unit = {"type": ["string", "null"], "enum": ["c", "f", None], "default": None}
    parameters = {"type": "object", "properties": {"city": city, "level": level, "unit": unit}, "required": ["city"]}
    assert declare([tool(parameters, "get_weather", description="Weather\nof a city."), tool(None, "now")]) == (
        "# Tools\n\n## functions\n\nnamespace functions {\n\n"
        "// Weather\n// of a city.\ntype get_weather = (_: {\n"
        '// City\n//\n// With its country.\n// Examples:\n// - "Rome, Italy"\ncity: string,\n'
        "level?: number, // default: 2\nunit?: string | null, // default: null\n}) => any;\n\n"
        "type now = () => any;\n\n} // namespace functions"
    )


UNIT = {"type": "string", "enum": ["c", "f"]}
TOLD = {"enum": [1, 2.5], "description": "How much."}
PLACE = {"type": "object", "properties": {"street": {"type": "string", "description": "With number."}}}
TREE = {"type": "object", "properties": {"leaves": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"anyOf": [{"type": "integer"}, {"type": "null"}], "description": "How many."},
         "// How many.\nx?: number | null,"),
        ({"$ref": "#/$defs/Unit"}, 'x?: "c" | "f",'),
        ({"$ref": "#/$defs/Unit", "default": "c"}, 'x?: "c" | "f", // default: "c"'),
        ({"$ref": "#/%24defs/a~1b"}, "x?: boolean,"),
        ({"$ref": "#/$defs/Told"}, "x?:     // How much.\n    1 | 2.5,"),
        ({"const": "now"}, 'x?: "now",'),
        ({"const": None}, "x?: null,"),
        ({"enum": [1, "b", None, {"c": [True]}]}, 'x?: 1 | "b" | null | {"c":[true]},'),
        ({"enum": ["a"], "default": "a"}, 'x?: "a", // default: a'),
        ({"type": "array", "items": UNIT}, 'x?: "c" | "f"[],'),
        ({"type": "array", "items": {"$ref": "#/$defs/Unit"}}, 'x?: ("c" | "f")[],'),
        ({"type": "array", "items": {"anyOf": [{"type": "string"}, PLACE]}},
         "x?: (string | {\n    // With number.\n    street?: string,\n    })[],"),
        ({"type": "array", "items": PLACE}, "x?: {\n    // With number.\n    street?: string,\n    }[],"),
        ({"type": "array", "items": {"type": "array", "items": {"const": 1}}}, "x?: 1[][],"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]}, "x?: [string, number],"),
        ({"type": "array", "items": [{"type": "string"}, True]}, "x?: [string, any],"),
        ({"type": "array", "items": True}, "x?: any[],"),
        ({"type": "array"}, "x?: Array<any>,"),
        ({"items": {"type": "string"}}, "x?: string[],"),
        ({"allOf": [{"$ref": "#/$defs/Unit"}], "description": "Of what."}, '// Of what.\nx?: "c" | "f",'),
        ({"allOf": [{"$ref": "#/$defs/Unit"}, {"type": "string"}]}, 'x?: ("c" | "f") & string,'),
        ({"anyOf": [{"type": "string", "description": "A name."}, {"type": "integer", "default": 1}]},
         "x?: \n     | string // A name.\n     | number // default: 1,"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}], "default": 3},
         "// default: 3\nx?:\n | string\n | number\n,"),
        ({"oneOf": [{"const": "a"}, {"const": "b"}], "default": "a"}, '// default: "a"\nx?:\n | "a"\n | "b"\n,'),
        ({"type": ["string", "integer", "null"]}, "x?: string | number | null,"),
        ({"type": "string", "nullable": True}, "x?: string | null,"),
        ({"$ref": "#/$defs/Unit", "nullable": True}, 'x?: "c" | "f" | null,'),
        ({"type": "object", "properties": {"y": {"const": None}}, "nullable": True},
         "x?: {\n    y?: null,\n    } | null,"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "x?: {\n    },"),
        ({"type": "object", "patternProperties": {"^a": {"type": "number"}}}, "x?: {\n    },"),
        ({"properties": {"y": {"type": "number"}}, "required": ["y"]}, "x?: {\n    y: number,\n    },"),
        ({"type": "null"}, "x?: null,"),
        (True, "x?: any,"),
        (False, "x?: never,"),
        (None, "x?: any,"),
        ({}, "x?: any,"),
        ({"type": "strin"}, "x?: any,"),
        ({"not": {"type": "null"}}, "x?: any,"),
        ({"$ref": "https://example.com/schema"}, "x?: any,"),
        ({"$ref": "#anchor"}, "x?: any,"),
        ({"type": "number", "default": 1e16}, "x?: number, // default: 1e16"),
        ({"type": "number", "default": 0.00001}, "x?: number, // default: 0.00001"),
    ],
)  # fmt: skip
def test_every_kind_of_schema_has_a_type(schema, written):
    definitions = {"Unit": UNIT, "Told": TOLD, "a/b": {"type": "boolean"}}
    assert argument(schema, **definitions) == written


def test_a_definition_that_contains_itself_is_written_once_and_named_inside():
    assert argument({"$ref": "#/$defs/Tree"}, Tree=TREE) == "x?:     // Tree\n{\n    leaves?: Tree[],\n    },"
    linked = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    assert "next?:     // Arguments\n{\n    next?: Arguments | null,\n    } | null,\n}) => any;" in declare(
        [tool(linked)]
    )


def test_the_arguments_themselves_may_be_a_reference():
    parameters = {"$ref": "#/$defs/Place", "$defs": {"Place": PLACE}}
    assert "type f = (_: {\n// With number.\nstreet?: string,\n}) => any;" in declare([tool(parameters)])


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"properties": ["city"]}, "tools[0].function (f): parameters.properties is ['city'], not an object"),
        ({"properties": {"x": "string"}}, "parameters.properties.x is 'string', not a JSON Schema"),
        ({"properties": {"x": {"items": 3}}}, "parameters.properties.x.items is 3, not a JSON Schema"),
        ({"properties": {"x": {"anyOf": {}}}}, "parameters.properties.x.anyOf is {}, not a list"),
        ({"properties": {"x": {"oneOf": [{"allOf": "a"}]}}}, "properties.x.oneOf[0].allOf is 'a', not a list"),
        ({"properties": {"x": {"type": "string", "enum": "a"}}}, "properties.x.enum is 'a', not a list"),
        ({"$ref": "#/$defs/Unit"}, "parameters refers to '#/$defs/Unit', which is not there"),
        ({"properties": {"x": {"$ref": "#/properties/y/3"}}}, "properties.x refers to '#/properties/y/3', which"),
    ],
)  # fmt: skip
def test_what_is_no_schema_is_named_with_its_tool_and_parameter(parameters, complaint):
    with pytest.raises(RequestError) as caught:
        declare([tool(parameters)])
    assert complaint in caught.value.message
    assert caught.value.param == "tools"


def test_definitions_that_double_at_every_step_are_refused_before_they_fill_the_memory():
    doubling = {
        f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}, {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}]}]}
        for at in range(64)
    }
    with pytest.raises(RequestError, match=f"expand to more than {MOST_EXPANDED} characters"):
        declare([tool({"$ref": "#/$defs/d0", "$defs": doubling | {"d64": UNIT}})])


def test_schemas_nested_too_deep_for_python_are_refused():
    nested: dict = {}
    for _ in range(2000):
        nested = {"type": "array", "items": nested}
    with pytest.raises(RequestError, match=r"tools\[0\]\.function \(f\): parameters is nested too deep"):
        declare([tool(nested)])

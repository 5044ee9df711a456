"""JSON and schemas, against answers and schemas made to break them."""

from __future__ import annotations

import json

import pytest

from adapters.errors import ConfigError, GraderError
from monitors.rewards.build import build_grader
from monitors.rewards.json_schema import parse
from monitors.rewards.settings import RewardSpec
from monitors.rewards.types import Sample

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def grader(base_dir=".", **options):
    return build_grader(RewardSpec(name="json_schema", options=options), base_dir)


def score(completion, schema=None, **options):
    return grader(**options).score([Sample((), completion, {"schema": schema})])[0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ('{"name": "Ada", "age": 36}', 1.0),
        (' {"name": "Ada"}\n', 1.0),
        ('{"name": "Ada", "age": -1}', 0.0),
        ('{"age": 36}', 0.0),
        ('{"name": "Ada", "x": 1}', 0.0),
        ("Ada", 0.0),
        ("", 0.0),
        ('Here: {"name": "Ada"}', 0.0),
        ('{"name": "Ada", "name": "Eve"}', 0.0),  # which one counts is anybody's guess
        ('{"name": "Ada", "age": 1e400}', 0.0),
        ('{"name": "Ada", "age": NaN}', 0.0),
        ('{"name": "Ada", "age": Infinity}', 0.0),
        ('{"name": "\\ud800"}', 1.0),
        ("[" * 100_000, 0.0),
        ("[" * 3000 + "]" * 3000, 0.0),
        ('{"name": "Ada", "age": ' + "9" * 5000 + "}", 0.0),
    ],
)
def test_against_a_schema(completion, expected):
    assert score(completion, PERSON) == expected
    assert score(completion, definition=PERSON) == expected


def test_the_schema_may_be_text_a_file_or_missing(tmp_path):
    assert score('{"name": "Ada"}', json.dumps(PERSON)) == 1.0
    assert score("{}", None) is None
    (tmp_path / "person.json").write_text(json.dumps(PERSON))
    made = grader(tmp_path, file="person.json")
    assert made.score([Sample((), '{"name": "A"}'), Sample((), "{}")]) == [1.0, 0.0]
    before = made.fingerprint
    (tmp_path / "person.json").write_text("{}")
    assert grader(tmp_path, file="person.json").fingerprint != before


def test_partial_credit_and_fences():
    assert score("{}", PERSON, partial=0.3) == 0.3 and score("{", PERSON, partial=0.3) == 0.0
    text = 'Here you are:\n```json\n{"name": "Ada"}\n```\nBye.'
    assert score(text, PERSON) == 0.0
    assert score(text, PERSON, take="fenced") == 1.0 and score(text, PERSON, take="any") == 1.0
    assert score(text + "\n" + text, PERSON, take="fenced") == 0.0  # one answer, not a choice
    assert score('{"name": "Ada"}', PERSON, take="any") == 1.0
    assert score('{"name": "Ada"}', PERSON, take="fenced") == 0.0


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"pattern": "^a+$"}, '"aaa"', '"b"'),
        ({"patternProperties": {"^n_": {"type": "integer"}}}, '{"n_a": 1, "s": ""}', '{"n_a": ""}'),
        ({"patternProperties": {"^n_": {}}, "additionalProperties": False}, '{"n_a": 1}', '{"m": 1}'),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, '{"a": 1, "b": ""}', '{"a": 1, "b": 1}'),
        ({"uniqueItems": True}, '[1, "1", true, [1], {"a": 1}]', '[{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]'),
        ({"uniqueItems": True}, "[0, false]", "[1, 1.0]"),
        ({"uniqueItems": False}, "[1, 1]", None),
        ({"$defs": {"p": {"type": "string"}}, "items": {"$ref": "#/$defs/p"}}, '["a"]', "[1]"),
        ({"multipleOf": 0.01}, "0.5", "0.005"),
        ({"const": 1}, "1", "true"),
    ],
)
def test_keywords(schema, good, bad):
    assert score(good, schema) == 1.0
    assert bad is None or score(bad, schema) == 0.0


def test_hostile_answers_end():
    evil = {"pattern": "^(a|aa|a*)+$"}
    assert score(json.dumps("a" * 4000 + "!"), evil) == 0.0
    assert score(json.dumps({"a" * 4000 + "!": 1}), {"patternProperties": {"^(a|aa|a*)+$": {}}}) == 0.0
    many = json.dumps([{"a": n} for n in range(9000)], separators=(",", ":"))
    assert score(many, {"uniqueItems": True}) == 1.0
    tree = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
    assert score("[" * 60 + "]" * 60, tree) == 1.0
    assert score("[" * 70 + "]" * 70, tree) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"definition": {"type": "objekt"}}, "not a JSON schema"),
        ({"definition": {}, "file": "x"}, "not both"),
        ({"file": "nowhere.json"}, "cannot be read as JSON"),
        ({"definition": {"patternProperties": {}, "unevaluatedProperties": False}}, "not supported"),
        ({"schemata": {}}, "nearest known one is"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError) as caught:
        grader(**options)
    assert message in str(caught.value) and str(caught.value).startswith("reward 'json_schema'")


@pytest.mark.parametrize("schema", [{"type": 5}, "{", 7, {"items": {"$ref": "https://example.org/x.json"}}])
def test_a_row_without_a_usable_schema_is_an_error(schema):
    with pytest.raises(GraderError, match="json_schema: "):
        score("[1]", schema)


def test_parse_says_why():
    with pytest.raises(ValueError, match="repeated key"):
        parse('{"a": 1, "a": 1}')
    with pytest.raises(ValueError, match="nested too deeply"):
        parse("[" * 99_000)

"""Recipes: YAML read strictly, as YAML 1.2, and every mistake in a file one clear line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lesionforge.errors import BadInput
from lesionforge.recipe import find_recipe, first_sentence, parse_recipe, read_recipe, scalar, shipped


def settings(text: str) -> dict:
    return parse_recipe(text, "x.yaml").settings


def refusal(text: str) -> str:
    with pytest.raises(BadInput) as caught:
        parse_recipe(text, "x.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("1.5e-3", 1.5e-3), (".5", 0.5), ("3.", 3.0), ("-2", -2), ("+7", 7), ("010", 10),
        ("0o17", 15), ("0x1F", 31), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("off", "off"), ("yes", "yes"), ("1_000", "1_000"), ("1:30", "1:30"),
        ("2024-05-01", "2024-05-01"), ("'1e-4'", "1e-4"), ("e5", "e5"), ("1e", "1e"), ("<<", "<<"),
        ("=", "="), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = settings(f"key: {text}")["key"]
    assert read == value
    assert type(read) is type(value)


# PyYAML does not join JSON's surrogate pairs, so no characters beyond U+FFFF; YAML's keys end at 1,024 characters.
words = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=100)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), json_values, min_size=1, max_size=4))
def test_json_is_yaml(value: dict) -> None:
    # Python's own JSON writer is the oracle: YAML 1.2 was made so that JSON is a part of it.
    assert settings(json.dumps(value)) == value


def test_lines_are_kept_for_later_messages() -> None:
    recipe = parse_recipe("# head\noptim:\n  lr: 1\n\n  epochs: 2\nlist:\n  - a: 1\n", "x.yaml")
    assert recipe.lines == {
        ("optim",): 2, ("optim", "lr"): 3, ("optim", "epochs"): 5, ("list",): 6, ("list", "0", "a"): 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "recipe x.yaml: the file is empty, expected `key: value` lines"),
        ("# only a comment\n", "recipe x.yaml: the file is empty, expected `key: value` lines"),
        ("- a\n- b\n", "recipe x.yaml: found a list, expected `key: value` lines"),
        ("lr\n", "recipe x.yaml: found a single value, expected `key: value` lines"),
        ("optim:\n  lr: 1\n  seed: 2\n  lr: 3\n", "recipe x.yaml: optim.lr stands twice, on lines 2 and 4; keep one"),
        ("a: 1\nb: 2\na: 3\n", "recipe x.yaml: a stands twice, on lines 1 and 3; keep one"),
        ("list:\n- a: 1\n  a: 2\n", "recipe x.yaml: list.0.a stands twice, on lines 2 and 3; keep one"),
        ("1: a\n", "recipe x.yaml line 1: found a key that is not a word, expected `key: value`"),
        ("? [a, b]\n: c\n", "recipe x.yaml line 1: found a key that is not a word, expected `key: value`"),
        ("a: &x 1\nb: *x\n", "recipe x.yaml line 2: not valid YAML, found an alias (*name), write the value out"),
        ("a: !!python/name:os.system 1\n", "recipe x.yaml line 1: not valid YAML, could not determine a constructor"),
        ("optim:\n\tlr: 1\n", "found character '\\t' that cannot start any token; indent with spaces, not tabs"),
        ("optim:\n  lr: 1\n epochs: 2\n", "recipe x.yaml line 3: not valid YAML, "),
        ("a: [1, 2\nb: 3\n", "recipe x.yaml line 2: not valid YAML, "),
        ("a: 'open\n", "recipe x.yaml line 2: not valid YAML, found unexpected end of stream"),
        ("a: 1\n---\nb: 2\n", "recipe x.yaml line 2: not valid YAML, but found another document"),
        ("a: \x07\n", "recipe x.yaml: not valid YAML, unacceptable character"),
        ("a: " + "9" * 5000, "recipe x.yaml: not valid YAML, Exceeds the limit"),
        ("a: " + "[" * 5000, "recipe x.yaml: not valid YAML, maximum recursion depth"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_clear_line(text: str, message: str) -> None:
    assert message in refusal(text)


def test_missing_folder_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"recipe .*nope\.yaml: no such file$"):
        find_recipe(str(tmp_path / "nope.yaml"))
    with pytest.raises(BadInput, match=r"found a folder, expected a YAML file such as .*config\.yaml"):
        find_recipe(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(BadInput, match="found bytes that are not UTF-8, expected a YAML text file"):
        read_recipe(tmp_path / "latin.yaml")
    (tmp_path / "long.yaml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(BadInput, match=r"found 1,048,577 bytes, expected a recipe under 1 MiB"):
        read_recipe(tmp_path / "long.yaml")
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbfname: a\r\nlr: 1\r\n")  # as Windows editors write it
    assert read_recipe(tmp_path / "mark.yaml").settings == {"name": "a", "lr": 1}


def test_unknown_name_suggests_and_lists_the_shipped_ones() -> None:
    with pytest.raises(BadInput) as caught:
        find_recipe("super_downsample")
    message = str(caught.value)
    assert message.startswith("unknown recipe 'super_downsample'; expected a path that ends in .yaml, or one of ")
    assert all(name in message for name in shipped())
    assert message.endswith("; did you mean super_downsampled?")
    with pytest.raises(BadInput, match=r"super_downsampled\.yaml: no such file; the shipped recipe is called super_"):
        find_recipe("super_downsampled.yaml")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipes_read_the_same_with_plain_pyyaml(name: str) -> None:
    # So that other tools, which follow YAML 1.1, see no other numbers than we do.
    recipe = find_recipe(name)
    assert recipe.settings == yaml.safe_load(shipped()[name])
    assert first_sentence(shipped()[name]).endswith(".")


def test_first_sentence_of_the_head() -> None:
    assert first_sentence("# One thing,\n# on two lines. And more.\n#\n# Later.\na: 1\n") == "One thing, on two lines."
    assert first_sentence("a: 1\n# not the head\n") == ""


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("none", None), ("None", None), ("null", None), ("1e-4", 1e-4), ("5", 5), ("true", True), ("a: b", "a: b"),
        ("", ""), (" 5", " 5"), ("[[a, 1], [b, 2.5]]", [["a", 1], ["b", 2.5]]), ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("[open", "[open"), ("# x", "# x"), ("*", "*"), ("9" * 5000, "9" * 5000), ("'5'", "'5'"),
    ],
)  # fmt: skip
def test_words_of_the_command_line(word: str, value: object) -> None:
    assert scalar(word) == value
    assert type(scalar(word)) is type(value)

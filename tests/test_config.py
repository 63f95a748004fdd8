"""Configs written as YAML: what is read back is the same, by our reader and by plain PyYAML."""

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from lesionforge.config import Config, to_yaml
from lesionforge.recipe import parse_recipe
from lesionforge.resolve import resolve


class Inner(Config):
    share: float = 0.5
    """A share."""
    sizes: tuple[int, ...] = ()
    word: str | None = None


class Outer(Config):
    """An outer config."""

    path: Path = Path("a/b")
    kind: Literal["none", "off", "1e3"] = "none"
    count: int | Literal["all"] = "all"
    inner: Inner = Inner()
    more: dict[str, Any] = Field(default_factory=dict)


def test_the_docstring_below_a_field_is_its_description() -> None:
    assert Inner.model_fields["share"].description == "A share."


def test_configs_are_frozen_closed_and_finite() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().share = 0.1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Inner(shares=0.1)  # type: ignore[call-arg]
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            Inner(share=number)


words = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["1e-4", "1e5", "off", "no", "null", "none", "~", "0o17", "010", "1_0", "1:30", "2024-05-01", "<<", "", " ", "- a",
     "\x85", "a\u2028b"]
)  # fmt: skip


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.integers()),
    st.none() | words,
    st.integers() | st.just("all"),
)
def test_written_and_read_back(share: float, sizes: list[int], word: str | None, count: int | str) -> None:
    inner = Inner(share=share, sizes=tuple(sizes), word=word)
    config = Outer(count=count, kind="1e3", inner=inner, more={"word": word, "share": share})  # type: ignore[arg-type]
    text = to_yaml(config)
    assert resolve(Outer, parse_recipe(text, "x.yaml"), {}) == config
    assert yaml.safe_load(text) == config.model_dump(mode="json")

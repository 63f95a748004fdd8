"""Default < recipe < flag, and each mistake in a value one clear line that names where it stands."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.recipe import parse_recipe
from lesionforge.resolve import known_keys, nearest_key, resolve


class Mix(Config):
    synthetic: int | Literal["all"] = 0


class Data(Config):
    store: Path
    fold: int | None = 0
    stores: tuple[Path, ...] = ()
    mix: Mix = Mix()


class Optim(Config):
    lr: float = Field(1e-3, gt=0)
    epochs: int = Field(3, ge=1, le=1000)
    betas: tuple[float, float] = (0.9, 0.999)
    ema: bool = False


class Settings(Config):
    out: Path
    preset: Literal["none", "flip", "strong", "off"] = "flip"
    note: str | None = None
    data: Data
    optim: Optim = Optim()
    args: dict[str, Any] = Field(default_factory=dict)
    pairs: tuple[tuple[str, int], ...] = ()
    even: int = 0

    @field_validator("even")
    @classmethod
    def is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"found {value}, expected an even number")
        return value

    @model_validator(mode="after")
    def note_goes_with_strong(self) -> "Settings":
        if self.note and self.preset != "strong":
            raise ValueError("--note goes with --preset strong")
        return self


def made(recipe: str = "", **flags: str) -> Settings:
    """Resolve YAML text and flags; `data__fold="none"` stands for `--data.fold none`, a list for several words."""
    given = {"out": "o", "data__store": "s", **flags}
    read = parse_recipe(recipe, "x.yaml") if recipe else None
    typed = {
        f"--{key.replace('__', '.')}": (tuple(key.split("__")), value.split("|"))
        for key, value in given.items()
        if value
    }
    return resolve(Settings, read, typed)


def refusal(recipe: str = "", **flags: str) -> str:
    with pytest.raises(BadInput) as caught:
        made(recipe, **flags)
    return str(caught.value)


def test_precedence() -> None:
    assert made().optim.lr == 1e-3
    recipe = "out: r\noptim: {lr: 1e-4, epochs: 7}\ndata: {store: t, mix: {synthetic: all}}\n"
    config = made(recipe, out="", data__store="", optim__epochs="9")
    assert (config.out, config.data.store) == (Path("r"), Path("t"))
    assert config.optim == Optim(lr=1e-4, epochs=9)
    assert config.data.mix.synthetic == "all"


@pytest.mark.parametrize(
    ("flag", "words", "value"),
    [
        ("data__fold", "none", None), ("data__fold", "2", 2), ("data__mix__synthetic", "all", "all"),
        ("data__mix__synthetic", "303", 303), ("data__stores", "a|b c", (Path("a"), Path("b c"))),
        ("data__stores", "a", (Path("a"),)), ("data__stores", "[]", ()),
        ("data__stores", "[a, b]", (Path("a"), Path("b"))), ("data__stores", "a|1", (Path("a"), Path("1"))),
        ("optim__betas", "0.8|1", (0.8, 1.0)),
        ("optim__betas", "[0.8, 1]", (0.8, 1.0)), ("pairs", "[[a, 1], [b, 2]]", (("a", 1), ("b", 2))),
        ("pairs", "[a, 1]|[b, 2]", (("a", 1), ("b", 2))), ("preset", "none", "none"), ("preset", "off", "off"),
        ("optim__lr", "1e-4", 1e-4), ("optim__lr", "2", 2.0), ("optim__ema", "true", True), ("note", "none", None),
        ("args", "{a: {b: 1e-3}}", {"a": {"b": 1e-3}}), ("args__drop_rate", "0.1", {"drop_rate": 0.1}),
        ("args__act", "relu", {"act": "relu"}), ("out", "5", Path("5")), ("out", "1e-4", Path("1e-4")),
    ],
)  # fmt: skip
def test_words_become_what_their_field_takes(flag: str, words: str, value: object) -> None:
    config: Any = made(**{flag: words})
    for name in flag.split("__"):
        config = config if isinstance(config, dict) else getattr(config, name)
    assert config == value


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("optim:\n  lrr: 1\n", "line 2: unknown key optim.lrr; did you mean optim.lr?"),
        ("lr: 1\n", "line 1: unknown key lr; did you mean optim.lr?"),
        ("lrr: 1\n", "line 1: unknown key lrr; did you mean optim.lr?"),
        ("data:\n  epochs: 1\n", "line 2: unknown key data.epochs; did you mean optim.epochs?"),
        ("optimm:\n  lr: 1\n", "line 1: unknown key optimm; did you mean optim?"),
        ("data: {mix: {synthetik: 3}}\n", "line 1: unknown key data.mix.synthetik; did you mean data.mix.synthetic?"),
        ("zzzzz: 1\n", "line 1: unknown key zzzzz"),
        ("optim.lr: 1\n", "line 1: unknown key optim.lr; write it nested: `optim: {lr: ...}`"),
        ("optim:\n  epochs: true\n", "line 2: optim.epochs: found true, expected an integer"),
        ("optim: {epochs: 50.5}", "line 1: optim.epochs: found 50.5, expected an integer"),
        ("optim: {epochs: 50.0}", "line 1: optim.epochs: found 50.0, expected an integer"),
        ("optim: {epochs: 1e-4}", "line 1: optim.epochs: found 0.0001, expected an integer"),
        ("optim: {epochs: '50'}", "line 1: optim.epochs: found '50', expected an integer"),
        ("optim: {epochs:}", "line 1: optim.epochs: found null, expected an integer"),
        ("optim: {epochs: 0}", "line 1: optim.epochs: found 0, expected a number greater than or equal to 1"),
        ("optim: {lr: fast}", "line 1: optim.lr: found 'fast', expected a number"),
        ("optim: {lr: true}", "line 1: optim.lr: found true, expected a number"),
        ("optim: {lr: .inf}", "line 1: optim.lr: found Infinity, expected a finite number"),
        ("optim: {lr: .nan}", "line 1: optim.lr: found NaN, expected a finite number"),
        ("optim: {lr: [1]}", "line 1: optim.lr: found [1], expected a number"),
        ("optim: {ema: no}", "line 1: optim.ema: found 'no', expected true or false"),
        ("optim: {ema: 1}", "line 1: optim.ema: found 1, expected true or false"),
        ("optim: {betas: [0.9]}", "line 1: optim.betas: found [0.9], expected more values"),
        ("optim: {betas: [0.9, 1, 2]}", "line 1: optim.betas: found [0.9, 1, 2], expected fewer values"),
        ("optim: {betas: [0.9, x]}", "optim.betas.1: found 'x', expected a number"),
        ("optim: 3", "line 1: optim: found 3, expected a section with keys of its own"),
        ("optim:\n", "line 1: optim: found null, expected a section with keys of its own"),
        ("preset: stron", "preset: found 'stron', expected 'none', 'flip', 'strong' or 'off'; did you mean strong?"),
        ("preset: true", "line 1: preset: found true, expected 'none', 'flip', 'strong' or 'off'"),
        ("note: 3", "line 1: note: found 3, expected text"),
        ("out: 3", "line 1: out: found 3, expected text"),
        ("data: {mix: {synthetic: al}}", "found 'al', expected an integer or 'all'; did you mean all?"),
        ("data: {stores: a}", "line 1: data.stores: found 'a', expected a list"),
        ("even: 3", "line 1: even: found 3, expected an even number"),
        ("note: " + "x" * 999 + "\npreset: " + "y" * 999, "found '" + "y" * 75 + " ..., expected"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe(recipe: str, message: str) -> None:
    text = refusal(recipe)
    assert text.startswith("recipe x.yaml")
    assert message in text
    assert "\n" not in text


def test_several_mistakes_of_a_recipe_stand_one_below_the_other() -> None:
    assert refusal("optim:\n  lrr: 1\n  epochs: true\npreset: flop\n").splitlines() == [
        "recipe x.yaml has 3 problems:",
        "  line 4: preset: found 'flop', expected 'none', 'flip', 'strong' or 'off'; did you mean flip?",
        "  line 3: optim.epochs: found true, expected an integer",
        "  line 2: unknown key optim.lrr; did you mean optim.lr?",
    ]


@pytest.mark.parametrize(
    ("flag", "words", "message"),
    [
        ("optim__epochs", "50.5", "--optim.epochs: found '50.5', expected an integer"),
        ("optim__epochs", "1e-4", "--optim.epochs: found '1e-4', expected an integer"),
        ("optim__epochs", "true", "--optim.epochs: found 'true', expected an integer"),
        ("optim__epochs", "none", "--optim.epochs: found 'none', expected an integer"),
        ("optim__epochs", "9999", "--optim.epochs: found '9999', expected a number less than or equal to 1000"),
        ("optim__lr", "fast", "--optim.lr: found 'fast', expected a number"),
        ("optim__betas", "0.9|x", "--optim.betas: found '0.9 x', expected a number"),
        ("optim__betas", "0.9", "--optim.betas: found '0.9', expected more values"),
        ("optim__ema", "maybe", "--optim.ema: found 'maybe', expected true or false"),
        ("preset", "str", "--preset: found 'str', expected 'none', 'flip', 'strong' or 'off'; did you mean strong?"),
        ("optim", "{lrr: 1}", "--optim: unknown key optim.lrr"),
        ("data__stores", "[a, 1]", "--data.stores: found '[a, 1]', expected text"),
        ("even", "3", "--even: found '3', expected an even number"),
        ("note", "x", "--note goes with --preset strong"),
    ],
)  # fmt: skip
def test_mistakes_in_a_flag(flag: str, words: str, message: str) -> None:
    assert refusal(**{flag: words}) == message


def test_a_flag_may_mend_what_is_wrong_only_in_the_sum() -> None:
    assert refusal("note: x\npreset: none\n") == "--note goes with --preset strong"
    assert made("note: x\npreset: none\n", preset="strong").note == "x"


def test_all_missing_settings_are_named_as_flags() -> None:
    assert refusal(out="", data__store="") == "missing --out, --data.store; give them as flags or in a recipe"
    assert refusal("out: o\n", out="", data__store="") == "missing --data.store; give it as a flag or in a recipe"


def test_known_keys_and_the_nearest_one() -> None:
    keys = list(known_keys(Settings))
    assert keys[:6] == ["out", "preset", "note", "data", "data.store", "data.fold"]
    assert nearest_key("optim.epoch", keys) == "; did you mean optim.epochs?"
    assert nearest_key("xyz", keys) == ""

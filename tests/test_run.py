"""A run folder: left alone when finished, refused when it is of another config, in one worker's hands at a time."""

import signal
import time
from pathlib import Path

import pytest

from lesionforge import run, signals
from lesionforge.config import Config
from lesionforge.errors import BadInput
from lesionforge.files import PARTIAL
from lesionforge.verbs import VERBS


class SmallConfig(Config):
    out: Path
    seed: int = 0
    deep: bool = False
    name: str | None = None


class OtherConfig(Config):
    out: Path
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    e: int = 0
    f: int = 0
    g: int = 0
    h: int = 0


def test_a_finished_run_is_left_alone_and_an_unfinished_one_gone_on_with(tmp_path: Path) -> None:
    config = SmallConfig(out=tmp_path / "r")
    assert not run.already_done(config.out, config)
    with run.started(config.out, "small", config) as keep:
        keep()
    assert not run.already_done(config.out, config)
    run.mark_done(config.out)
    assert run.already_done(config.out, config)


def test_differing_keys_are_named_as_a_recipe_has_them(tmp_path: Path) -> None:
    run.record(tmp_path, "small", SmallConfig(out=tmp_path))
    with pytest.raises(BadInput, match=r"another config \(deep: false there, true now; name: none there, a now\)"):
        run.already_done(tmp_path, SmallConfig(out=tmp_path, deep=True, name="a"))
    (tmp_path / "more").mkdir()
    run.record(tmp_path / "more", "small", OtherConfig(out=tmp_path / "more"))
    with pytest.raises(BadInput, match=r"a: 0 there, none now; .*; 10 keys in all\)"):
        run.already_done(tmp_path / "more", SmallConfig(out=tmp_path / "more"))


def test_a_folder_of_another_verb_is_called_so(tmp_path: Path) -> None:
    run.record(tmp_path, "other", OtherConfig(out=tmp_path))
    run.mark_done(tmp_path)
    with pytest.raises(BadInput, match=r"was made by `lesionforge other`, not by small; name another folder with --o"):
        run.already_done(tmp_path, SmallConfig(out=tmp_path))
    # a config that does not say it: the keys do
    config = tmp_path / run.CONFIG
    config.write_text("\n".join(config.read_text().splitlines()[1:]))
    with pytest.raises(BadInput, match="holds a run of another config"):
        run.already_done(tmp_path, SmallConfig(out=tmp_path))


def test_config_classes_are_named_after_their_verbs() -> None:
    """By which a folder of another verb is known."""
    assert all(verb.config.removesuffix("Config").lower() == name for name, verb in VERBS.items())


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(BadInput, match=r"exists and is not a run folder \(no config.yaml in it\)"):
        run.already_done(tmp_path, SmallConfig(out=tmp_path))


def test_a_refusal_before_keep_leaves_nothing(tmp_path: Path) -> None:
    config = SmallConfig(out=tmp_path / "r")
    with pytest.raises(BadInput, match="no"), run.started(config.out, "small", config):
        raise BadInput("no")
    assert not config.out.exists()
    with pytest.raises(TypeError), run.started(config.out, "small", config) as keep:
        keep("too much")  # type: ignore[call-arg]
    assert not config.out.exists()
    with run.started(config.out, "small", config) as keep:
        keep()
    assert (config.out / run.CONFIG).is_file()


def test_two_workers_in_one_folder_are_refused(tmp_path: Path) -> None:
    config = SmallConfig(out=tmp_path / "r")
    with run.started(config.out, "small", config) as keep:
        keep()
        with (
            pytest.raises(BadInput, match="another lesionforge is at work on it"),
            run.started(config.out, "small", config),
        ):
            pass
    assert (config.out / run.CONFIG).is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_a_flag_and_a_second_acts_at_once(number: signal.Signals) -> None:
    """torchrun passes on what the group got already: within a second, two are one."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that this test survives it
    try:
        with signals.stop_signals() as stop_signal:
            assert stop_signal() is None
            for _ in range(3):
                signal.raise_signal(number)
                assert stop_signal() == number
            time.sleep(signals.SAME_SIGNAL_SECONDS + 0.05)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_whose_start_was_cut_short_is_completed(tmp_path: Path) -> None:
    """A kill in its first second: the folder alone, a half config, no environment."""
    config = SmallConfig(out=tmp_path / "r")
    config.out.mkdir()
    (config.out / f".config.yaml.1{PARTIAL}").write_text("out:")
    assert not run.already_done(config.out, config)
    for _ in range(2):
        with run.started(config.out, "small", config) as keep:
            keep()
        assert {path.name for path in config.out.iterdir()} == {run.CONFIG, run.ENVIRONMENT, run.LOG}
        (config.out / run.ENVIRONMENT).unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_log_that_cannot_be_written_says_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / run.LOG).symlink_to("/dev/full")
    with run.logged(tmp_path):
        for _ in range(3):
            run.log.info("a line")
    said = capfd.readouterr().err
    assert said.count("log.txt cannot be written") == 1
    assert "Traceback" not in said

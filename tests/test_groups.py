"""A group of generators or of stores gives the member of a fold; any other folder is itself."""

from pathlib import Path

import pytest

from lesionforge import run
from lesionforge.data.groups import member_of_fold, members_of
from lesionforge.errors import BadInput


@pytest.fixture
def group(tmp_path: Path) -> Path:
    for fold in (0, 1, 10):
        (tmp_path / "group" / run.MEMBERS / f"fold-{fold}").mkdir(parents=True)
    run.mark_done(tmp_path / "group", members=["fold-0", "fold-1", "fold-10"])
    return tmp_path / "group"


def test_members_stand_in_the_order_of_their_folds(group: Path) -> None:
    assert [member.name for member in members_of(group)] == ["fold-0", "fold-1", "fold-10"]
    assert member_of_fold(group, 1) == group / run.MEMBERS / "fold-1"


def test_a_plain_folder_is_itself_whatever_fold_is_asked_for(tmp_path: Path) -> None:
    assert members_of(tmp_path) == [tmp_path]
    assert member_of_fold(tmp_path, None) == member_of_fold(tmp_path, 3) == tmp_path


def test_what_a_group_cannot_give(group: Path) -> None:
    with pytest.raises(BadInput, match=r"a group, one member a fold \(fold-0, fold-1, fold-10\), and no fold is asked"):
        member_of_fold(group, None)
    with pytest.raises(BadInput, match="this group has no member fold-2; it has fold-0, fold-1, fold-10"):
        member_of_fold(group, 2)
    (group / run.MEMBERS / "fold-10").rmdir()
    with pytest.raises(BadInput, match="members fold-10 are gone from this group; make it anew"):
        member_of_fold(group, 0)
    (group / run.DONE).unlink()
    with pytest.raises(BadInput, match=r"an unfinished group \(no done\.json\); run the command"):
        members_of(group)

"""Groups: a folder of one generator, or one store of generated images, a fold.

GROUP/members/fold-0, fold-1, ...    each as its verb makes it
GROUP/done.json                      "members": their names
"""

from pathlib import Path

from lesionforge import run, tables
from lesionforge.errors import BadInput
from lesionforge.files import read_json


def is_group(folder: Path) -> bool:
    return (folder / run.MEMBERS).is_dir()


def members_of(folder: Path) -> list[Path]:
    """The members of a finished group, in the order of their folds; of any other folder, that folder itself.

    Raises:
        BadInput: the group is unfinished, or a member that it names is gone.
    """
    if not is_group(folder):
        return [folder]
    if not (folder / run.DONE).is_file():
        raise BadInput(f"{folder}: an unfinished group (no {run.DONE}); run the command that makes it again")
    names = read_json(folder / run.DONE).get("members") or []
    gone = [name for name in names if not (folder / run.MEMBERS / name).is_dir()]
    if gone or not names:
        raise BadInput(f"{folder}: members {tables.in_short(gone) or 'unnamed'} are gone from this group; make it anew")
    return [folder / run.MEMBERS / name for name in names]


def member_of_fold(folder: Path, fold: int | None) -> Path:
    """The member of a group that was made for `fold`; of any other folder, that folder itself.

    Raises:
        BadInput: no fold is asked for, or the group has no member of it.
    """
    members = members_of(folder)
    if not is_group(folder):
        return folder
    names = [member.name for member in members]
    if fold is None:
        raise BadInput(
            f"{folder}: a group, one member a fold ({tables.in_short(names)}), and no fold is asked for; ask for "
            "one, or name one member's folder"
        )
    if name_of(fold) not in names:
        raise BadInput(f"{folder}: this group has no member {name_of(fold)}; it has {tables.in_short(names)}")
    return folder / run.MEMBERS / name_of(fold)


def name_of(fold: int) -> str:
    """What the member of a fold is called."""
    return f"fold-{fold}"

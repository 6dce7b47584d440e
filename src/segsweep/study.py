"""Opens the study of a search. Importing Optuna takes half a second: it is done where a study is opened."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segsweep import journal
from segsweep.halving import SuccessiveHalving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    import optuna


def open_study(
    file: Path,
    pruner: dict[str, Any] | None = None,
    directions: Sequence[Literal["maximize", "minimize"]] | None = None,
) -> optuna.Study:
    """Opens the study in a journal.

    Args:
        file: the journal.
        pruner: plain description of one; ``SuccessiveHalving`` is not for Optuna to follow.
        directions: ``maximize`` or ``minimize`` for each objective, to begin a study if there is none.

    Raises:
        KeyError: there is no study, and no directions.
        ValueError: the file is damaged, or the pruner is none.
    """
    import optuna
    from optuna.storages import JournalStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(journal.Journal(file))  # type: ignore[arg-type]  # it asks for no more than its methods
    is_ours = SuccessiveHalving.of(pruner) is not None
    chosen = make_pruner(pruner) if pruner and not is_ours else optuna.pruners.NopPruner()
    if directions is None:
        return optuna.load_study(study_name=journal.ABOUT, storage=storage, pruner=chosen)
    return optuna.create_study(
        study_name=journal.ABOUT, storage=storage, pruner=chosen, directions=directions, load_if_exists=True
    )


def make_pruner(node: dict[str, Any]) -> optuna.pruners.BasePruner:
    """Builds a pruner of Optuna's; a journal is data, so no other name in it is followed.

    Raises:
        ValueError: the description names anything else.
    """
    import optuna

    package, _, name = str(node.get("_target_")).rpartition(".")
    if package != "optuna.pruners" or not name.endswith("Pruner") or name not in optuna.pruners.__all__:
        raise ValueError(f"{node.get('_target_')} is none of optuna.pruners, the only ones that every run can follow")
    arguments = {key: value for key, value in node.items() if not key.startswith("_")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner: optuna.pruners.BasePruner = getattr(optuna.pruners, name)(**arguments)
    return pruner

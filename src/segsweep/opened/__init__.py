"""Opens finished runs, one's own and strangers': everything in a run folder is data, and nothing in it is executed.

    record.json, best.json   ->  plain values, with a limit on size and depth, each fact checked
    best.safetensors         ->  names, shapes and types held against the model before any memory is taken
    model                    ->  the only thing that is built: its class has to be in a table of exact names, or typed
                                 by the user with --trust, and its arguments are numbers, words and lists of them

Hydra's ``instantiate``, OmegaConf, pickle and YAML never see anything that comes from a run folder.
``data.open_data`` opens the run's own images again, from the facts in its record and a root that the user types.
"""

from segsweep.opened.run import OpenedRun, open_finished

__all__ = ["OpenedRun", "open_finished"]

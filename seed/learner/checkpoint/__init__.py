"""Checkpoints: written whole or not at all, checked before they are believed, free of pickle.

A checkpoint is a folder `checkpoints/frames-NNN-updates-NNN` with `state.safetensors` (every
tensor), `state.json` (everything else) and `manifest.json` (their SHA-256), and, where asked for, a
folder `replay`. It is written under another name and renamed last, so a folder of that name is
complete. Names sort by age: the last one is the newest, and no link has to say so. Only names of
exactly this form count; whatever else lies there is left alone, and named in a warning.
"""

from seed.learner.checkpoint.naming import CheckpointError, name_of, names, warn_of_others
from seed.learner.checkpoint.packing import pack, unpack_module, unpack_optimizer
from seed.learner.checkpoint.reading import (
    MANIFEST,
    REPLAY,
    STATE,
    TENSORS,
    Checkpoint,
    find_replay,
    load,
    load_newest,
)
from seed.learner.checkpoint.writing import SaveFailed, SaveReplay, save

__all__ = [
    "MANIFEST", "REPLAY", "STATE", "TENSORS", "Checkpoint", "CheckpointError", "SaveFailed",
    "SaveReplay", "find_replay", "load", "load_newest", "name_of", "names", "pack", "save",
    "unpack_module", "unpack_optimizer", "warn_of_others",
]  # fmt: skip

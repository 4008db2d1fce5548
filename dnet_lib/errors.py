"""What the library raises of its own: one base class, and an error for each kind of fault."""

from typing import Any


class DnetError(Exception):
    """The base of the library's own errors; every message names the thing and the way out."""


class ShapeError(DnetError, ValueError):
    """A batch that is not what was asked for."""


class DataError(DnetError, ValueError):
    """A voxel archive that is missing, broken or does not hold what was asked for."""


class CheckpointError(DnetError, ValueError):
    """A file of weights, results or a run that is missing, broken or of another kind."""


class DivergedError(DnetError, RuntimeError):
    """A chain or a learning run left the finite numbers. Learning attaches the last good `state` and `checkpoint`."""

    state: dict[str, Any] | None = None  #: For `load_state_dict` of the run
    checkpoint: str | None = None  #: The file that holds it, if there is one


class StaleError(DnetError, RuntimeError):
    """The network's weights have changed since they were frozen: call `refresh()`."""

"""Errors for people: what was wrong, where, and what to do about it.

Every error that a user can cause derives from `TimaError`. The command line prints its text without a
traceback; in Python it is an ordinary exception.
"""


class TimaError(Exception):
    """Base of every error that has a message for the user."""


class EpsError(TimaError, ValueError):
    """A perturbation size that cannot be meant."""


class DataError(TimaError, ValueError):
    """A data set, class list, label or image that cannot be used."""


class MissingDataError(DataError):
    """A data set or split that is not where it was looked for; the message says how to get it."""


class DamagedDataError(DataError):
    """A file that is there and cannot be read to its end."""


class ModelError(TimaError, ValueError):
    """A model or checkpoint that cannot be loaded or does not fit."""


class NotFiniteError(ModelError):
    """NaN or infinity came out of a model. Who knows the step or the file adds it."""


class RecipeError(TimaError, ValueError):
    """A recipe, protocol or override that does not validate."""


class TrainingError(TimaError, RuntimeError):
    """Training cannot go on; the message names the step, the term and the last good checkpoint."""


class ResultError(TimaError, ValueError):
    """A stored result that cannot be read or does not belong here."""


class ExportError(TimaError, RuntimeError):
    """An exported model that does not compute what ours does; nothing of it was kept."""

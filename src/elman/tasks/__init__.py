"""Whole jobs, from the user's files to a trained model: what the command line does, from Python."""

__all__ = ["InputError"]


class InputError(ValueError):
    """What the user gave cannot be worked with; the message says what, why and what to do."""

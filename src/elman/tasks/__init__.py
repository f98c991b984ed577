"""Whole jobs, from the user's files to a trained model: what the command line does, from Python."""

__all__ = ["DivergenceError", "InputError"]


class InputError(ValueError):
    """What the user gave cannot be worked with; the message says what, why and what to do."""


class DivergenceError(ArithmeticError):
    """In training the loss or a gradient grew without bound, or is no number."""

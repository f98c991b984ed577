"""Whole jobs, from the user's files to a trained model: what the command line does, from Python."""


class InputError(ValueError):
    """What the user gave cannot be worked with; the message says what, why and what to do."""

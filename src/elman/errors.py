"""The error of what the user gave: one class, whoever finds it."""

__all__ = ["InputError"]


class InputError(ValueError):
    """What the user gave cannot be worked with; the message says what, why and what to do.

    Args:
        message: one or more sentences.
        settings: the settings that it names, which are flags on the command line.
    """

    def __init__(self, message: str, *settings: str) -> None:
        super().__init__(message)
        self.settings = settings

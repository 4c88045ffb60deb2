"""The one exception a user's mistake raises."""


class InputError(ValueError):
    """The input is wrong. The message is one line that names the file or setting and says what would be right.

    The command line prints it without a traceback and exits with status 2.
    """

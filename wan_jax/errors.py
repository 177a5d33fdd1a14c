"""The one exception that users are meant to read."""


class WanError(ValueError):
    """A wrong request or a broken input file.

    The message names the offending value and the way out. The command line prints it without a
    traceback and exits with status 2; lists of keys may follow the first line.
    """

"""The one exception that users see: input they can mend, in one clear line."""


class BadInput(Exception):
    """Input that the user can mend. The message says what was found, what was expected and the cure, with the values.

    The CLI prints it to stderr without a traceback and exits with code 2. Where one file has several problems, they
    are listed at once, each on an indented line of its own below the first.
    """

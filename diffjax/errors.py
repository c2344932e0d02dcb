"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake of the user: one line that says what was wrong and what would be right.

    Launchers print the line to stderr and exit with status 2; any other exception is a bug.
    """

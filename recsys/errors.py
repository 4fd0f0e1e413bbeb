"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A mistake in the input, the configuration or an artefact that the user can mend.

    The message is one paragraph: the place (file, row, field or configuration path), what was found and what was
    expected. The command line prints it without a traceback and exits with code 2.
    """

"""The error that everything about data raises."""

from ddcal.errors import BadInput


class DataError(BadInput):
    """A dataset is missing, damaged or not what its config says; the message names the file and what would be right."""

"""What a data module raises when the user's files are not as they must be."""


class DataError(ValueError):
    """Files or folders of a data set that cannot be used; names the file and the remedy."""

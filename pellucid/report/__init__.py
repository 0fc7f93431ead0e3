"""The report of a run as one page, and the pictures in it."""

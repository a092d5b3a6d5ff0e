"""What stops the lifting of a graph; the lifter adds file and node and raises a `ProjectError`."""


class Unliftable(Exception):  # noqa: N818  never leaves the package
    """An operator, or a form of one, that is not lifted."""

"""The project file of the command line's tests; it talks on stdout, as people's files do."""

import tiny

print("loading")


def build(split="test"):
    print("building")
    task = tiny.task() if split == "test" else tiny.task(test=None)
    return tiny.tiny(), task

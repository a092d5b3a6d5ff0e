"""What every searcher is: a pure function from what is known to the next candidate.

No searcher keeps anything between two calls, so that a search that was killed goes on as if it had not been: the same
history and the same seed give the same proposal.
"""

from __future__ import annotations

from typing import Protocol

from lissom.search.history import View
from lissom.search.space import Point


class Searcher(Protocol):
    """`propose` gives a point without training that is neither known nor pending, or None when it has no more."""

    @property
    def name(self) -> str: ...

    def propose(self, view: View) -> Point | None: ...

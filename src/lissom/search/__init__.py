"""Search: from a goal to a recipe, by a callable that measures one."""

from lissom.search.evaluating import Workers as Workers
from lissom.search.evaluating import workers_of as workers_of
from lissom.search.explaining import Explanation as Explanation
from lissom.search.history import Failure as Failure
from lissom.search.history import LayerTime as LayerTime
from lissom.search.history import Measurement as Measurement
from lissom.search.history import Timed as Timed
from lissom.search.history import Trial as Trial
from lissom.search.planner import Found as Found
from lissom.search.planner import Limits as Limits
from lissom.search.planner import Search as Search
from lissom.search.searchers import NAMES as NAMES
from lissom.search.searchers import searchers_of as searchers_of
from lissom.search.space import Point as Point
from lissom.search.space import Space as Space
from lissom.search.starting import Foreseen as Foreseen
from lissom.search.starting import foresee_wishes as foresee_wishes
from lissom.search.starting import start as start
from lissom.search.study import Study as Study
from lissom.search.study import opened as opened

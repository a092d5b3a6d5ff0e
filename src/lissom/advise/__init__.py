"""Advice: which methods fit a model, its task and a target in a scenario, and what was measured of them before."""

from lissom.advise.evidence import Evidence as Evidence
from lissom.advise.evidence import load_evidence as load_evidence
from lissom.advise.facts import Facts as Facts
from lissom.advise.facts import facts_of as facts_of
from lissom.advise.methods import DYNAMIC_SHARE as DYNAMIC_SHARE
from lissom.advise.recommendation import Recommendation as Recommendation
from lissom.advise.recommendation import recommended as recommended
from lissom.advise.recommendation import to_yaml as to_yaml
from lissom.advise.recommendation import within_reach as within_reach
from lissom.advise.scenarios import SCENARIOS as SCENARIOS
from lissom.advise.scenarios import Scenario as Scenario
from lissom.advise.scenarios import scenario_of as scenario_of

"""The verbs: analyze, plan, compress, load, measure again."""

from lissom.pipeline.candidates import recipes_for as recipes_for
from lissom.pipeline.compressing import analyze as analyze
from lissom.pipeline.compressing import compress as compress
from lissom.pipeline.datafree import Arranged as Arranged
from lissom.pipeline.datafree import DataFree as DataFree
from lissom.pipeline.datafree import arranged as arranged
from lissom.pipeline.datafree import supplied as supplied
from lissom.pipeline.exporting import export_model as export_model
from lissom.pipeline.foresight import Foresight as Foresight
from lissom.pipeline.foresight import foresee as foresee
from lissom.pipeline.monitoring import monitor as monitor
from lissom.pipeline.recommending import recommend as recommend
from lissom.pipeline.reload import Remeasured as Remeasured
from lissom.pipeline.reload import load as load
from lissom.pipeline.reload import read_result as read_result
from lissom.pipeline.reload import remeasure as remeasure
from lissom.pipeline.result import Result as Result
from lissom.pipeline.saturation import saturation as saturation
from lissom.pipeline.sensitivity import sensitivity as sensitivity
from lissom.pipeline.starting import Start as Start
from lissom.pipeline.starting import start_for as start_for
from lissom.pipeline.transforming import plan as plan

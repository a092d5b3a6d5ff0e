from lissom.transforms.pruning.depth import Drop, PruneDepth
from lissom.transforms.pruning.outlook import Outlook, depth_outlook, outlook
from lissom.transforms.pruning.prune import Cut, Prune, Study

__all__ = ["Cut", "Drop", "Outlook", "Prune", "PruneDepth", "Study", "depth_outlook", "outlook"]

from lissom.transforms.pruning.outlook import Outlook, outlook
from lissom.transforms.pruning.prune import Cut, Prune, Study

__all__ = ["Cut", "Outlook", "Prune", "Study", "outlook"]

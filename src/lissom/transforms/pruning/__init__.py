from lissom.transforms.pruning.prune import Cut, Prune

__all__ = ["Cut", "Prune"]

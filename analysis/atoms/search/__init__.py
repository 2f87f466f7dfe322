"""Which atoms there are: peaks of a volume, then atoms added and removed by likelihood ratio."""

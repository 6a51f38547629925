"""Lower bounds on epsilon, each at a stated confidence, from the scores of an attack."""

"""Train PyTorch models with differential privacy, and prove what is claimed."""

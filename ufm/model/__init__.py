"""What is minimised: the problem, its losses, constraints and parameters."""

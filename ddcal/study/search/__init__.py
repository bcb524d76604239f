"""What is tried next, and what is made of it: searchers, schedulers, outcomes, importances."""

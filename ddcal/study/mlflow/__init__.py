"""MLflow as a mirror of the ledger; the one room that imports it, but for the models of exports."""

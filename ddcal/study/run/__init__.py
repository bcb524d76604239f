"""Running a study: checks, the driver, and who runs its trials."""

"""What is written of a study, and read again: ledger, results, references, status."""

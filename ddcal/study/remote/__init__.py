"""A study's output on S3 (``storage.output``): its ledger in numbered parts, the lock, and bringing it all back."""

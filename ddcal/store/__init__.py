"""The content-addressed artefact store: in a folder or on S3, with caches and leases."""

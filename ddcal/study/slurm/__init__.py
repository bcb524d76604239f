"""Studies as SLURM jobs: what a task of one does, and submitting one."""

"""Pages of tables and figures that a person can read from top to bottom: of the paper's studies, and of any study."""

"""Tables, figures and pages from finished studies."""

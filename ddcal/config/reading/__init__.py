"""From a YAML file and --set arguments to a checked study, or every mistake with its line."""

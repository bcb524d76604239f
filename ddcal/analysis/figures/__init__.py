"""Pictures of studies and of what networks and sets look like, each with the numbers that it draws."""

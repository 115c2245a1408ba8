"""Students in the form that is deployed."""

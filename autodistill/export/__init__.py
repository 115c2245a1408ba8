"""Export of students for deployment."""

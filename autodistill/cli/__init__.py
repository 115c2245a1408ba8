"""The command line: a search described by one file, without a program around it."""

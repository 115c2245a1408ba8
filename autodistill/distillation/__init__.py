"""Distillation of a teacher into one student: flash, block by block, then regular, as a whole."""

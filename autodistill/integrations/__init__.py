"""AutoDistillation inside other libraries; the core imports none of this."""

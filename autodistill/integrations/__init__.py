"""AutoDistillation in other libraries; the core does not import these modules."""

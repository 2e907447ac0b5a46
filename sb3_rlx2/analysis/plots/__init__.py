"""Pictures of trainings. They need the extra ``plot`` (matplotlib, rliable)."""

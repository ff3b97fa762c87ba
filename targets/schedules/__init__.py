"""Rule-based schedules, one file per operator family."""

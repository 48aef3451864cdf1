"""Files and addresses made to hurt: hand-made attacks, properties, and coverage-guided fuzzing."""

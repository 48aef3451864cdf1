"""What people and language models found out about components: labels, scores, notes."""

"""What readers get: components.jsonl, tables, .pt files."""

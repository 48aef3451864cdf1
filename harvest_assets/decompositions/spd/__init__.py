"""Opening an SPD run: config, checkpoint, target model, CI functions, data."""

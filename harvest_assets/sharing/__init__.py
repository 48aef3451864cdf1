"""Finished harvests as one file, as a dataset on the Hugging Face hub, or as a W&B artifact."""

"""Work begun with version 0.1 goes on."""

"""Figures of harvests and components for papers, drawn by matplotlib."""

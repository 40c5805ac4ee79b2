"""Records as text for a terminal: tables, a heatmap, progress. Nothing here computes a result."""

"""Tables and figures from run folders. Reads JSON files only and never needs torch."""

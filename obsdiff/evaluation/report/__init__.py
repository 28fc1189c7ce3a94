"""Report: results.json in, one HTML page out."""

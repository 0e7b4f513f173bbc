"""What tallyd is measured against."""

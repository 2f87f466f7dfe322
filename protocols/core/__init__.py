"""What everything stands on: errors, units, time, YAML documents, compression."""

"""Pictures of scouts in a run file: where they stand, and how they are read."""

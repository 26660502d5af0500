"""The request as the unit of training: tables, batches, models (Request-Only Optimization)."""

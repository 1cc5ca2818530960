"""The life of a run, in memory: knows neither HTTP nor SQL nor the clock."""

"""Does a model trained on a selection get better, and at what cost: proxy models, arms at equal tokens, fits."""

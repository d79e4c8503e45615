"""Who owns a GPU or the truth. Knows neither training nor HTTP."""

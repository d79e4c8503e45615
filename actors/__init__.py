"""Who owns a GPU or the truth. Knows neither training nor HTTP.

>>> from actors.runs.ledger import Ledger
>>> from configs.paths import home
>>> ledger = Ledger(home().ledger)
>>> ledger.submit("my-run", config={}, priority=5).state.value
'QUEUED'
>>> ledger.close()
"""

"""`ovd view`: a run in the browser, while it trains and afterwards."""

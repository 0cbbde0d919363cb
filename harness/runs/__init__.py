"""Cells: trained and evaluated one by one, in processes or on Ray; their states, their costs, what they left behind."""

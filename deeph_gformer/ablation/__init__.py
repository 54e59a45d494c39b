"""The settings of Tables 2-4: trained and evaluated with the same data, splits, seed and budget."""

"""What is made of the results: JSON, a table, plots, and the page in docs/."""

"""What all tables of docs/evidence.md share: results that resume, tables, tests, the page."""

"""Imports of CSV files. A row passes these modules from top to bottom:

commands.py   upload, options, preview, start; the rest of an import's commands and queries
store.py      the tables: uploaded files, options, failed rows, issues
files.py      the file becomes rows of text
proposing.py  each column gets the field that it probably is
mapping.py    options; which field each column becomes
job.py        the job takes the next rows; for each batch:
rows.py       a row of text becomes the values of a record
cells.py      the text of a cell becomes a value, or a name is looked up
deciding.py   create, update, skip or fail
records.py    existing records, and the keys and ids by which rows find them
preview.py    the same for a preview, which records nothing
issues.py     what is reported about cells, or about the whole file
"""

"""Imports of CSV files. A row passes these modules in this order:

commands.py   upload a file, change options, preview, start the job
store.py      the tables: uploaded files, options, failed rows, issues
files.py      read a CSV file row by row
mapping.py    propose and check the field that each column becomes
job.py        take the next rows, plan and decide them, append the events
rows.py       plan a row: its cells become the values of an entity
cells.py      parse the text of a cell, or look up a name
deciding.py   find the existing entity of a row, and decide: create, update, skip or fail
issues.py     what is reported about cells, or about the whole file
preview.py    plan and decide rows without appending events
"""

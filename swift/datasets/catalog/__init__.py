"""Rows of the data set registry; every module here adds its own."""

"""Data in and out, in NumPy: picture files, and the records that training reads."""

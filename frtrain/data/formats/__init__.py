"""File formats of face data sets, read and written without their frameworks."""

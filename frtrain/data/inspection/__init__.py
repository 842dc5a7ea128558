"""What is in a data set: measures of every image, duplicates, contact sheets, and the page that shows them."""

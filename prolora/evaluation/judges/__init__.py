"""The networks that look at pictures, a file each, through the libraries that own them."""

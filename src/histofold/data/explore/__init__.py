"""What is to be seen of a folder before any network is trained."""

"""Links from a page to files of the repository, such as `benchmarks/` or `../examples/real.sh`, work on GitHub and here.

A text file (`docs/benchmarks/copies.txt`, `../examples/real.sh`) is copied into the built site and linked there; a
folder is linked as the list of its files is not worth a page: its name stays, without a link.
"""

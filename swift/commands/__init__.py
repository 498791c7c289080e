"""One module per command; each has one public `<command>_main(args)`."""

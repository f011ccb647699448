"""Reading the text of statements. No I/O, no gevent."""

"""One connection on gevent's hub, from connecting to its loss."""

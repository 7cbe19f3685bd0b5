"""Reports of errors over HTTP, for programs that cannot import mendflow."""

"""What `mailagent demo` needs so that a newcomer needs no account, no key and no server."""

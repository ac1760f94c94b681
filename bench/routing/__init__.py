"""A discrete-event simulator around the router: thousands of jobs in a moment, no clock and no sockets."""

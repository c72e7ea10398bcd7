//! Connections: TCP, TLS and Unix sockets under one deadline.

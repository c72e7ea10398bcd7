//! Real engines, a PHP-FPM fleet, a load balancer and a fault proxy, on free loopback ports and in temporary
//! directories; everything is stopped by its pid when dropped.

pub mod need;
pub mod php;
pub mod suite;

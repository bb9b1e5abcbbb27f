//! HTTP: connections, and each request of a push source from its head to its response.

mod body;
pub mod certificate;
mod connections;
mod fair_read;
pub mod handler;
pub mod limits;
mod memory_budget;
pub mod problem;
pub mod server;
pub mod tls;

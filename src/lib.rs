//! Oncegate: a transparent AMQP 0-9-1 proxy between Celery clients and `RabbitMQ`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod amqp;
pub mod celery;
pub mod cli;
pub mod config;
pub mod logging;
pub mod metrics;
pub mod proxy;
pub mod rules;
pub mod run;
pub mod session;
pub mod store;

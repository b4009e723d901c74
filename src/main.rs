//! The proxy in front of `RabbitMQ`, as a program.

fn main() {}

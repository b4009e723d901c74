//! Celery's messages: from AMQP properties and bodies to what they mean. Knows nothing of rules.

pub mod value;

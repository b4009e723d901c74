//! Bytes to frames and back. Knows nothing of Celery.

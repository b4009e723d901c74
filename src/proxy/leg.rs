//! One socket of a connection: what is being written to it, and how it ends.

use std::io;
use std::task::{Context, Poll};

use super::transport::Transport;
use crate::session::{Session, Side, Spares};

/// A socket and the bytes on their way into it.
#[derive(Debug, Default)]
pub struct Leg {
    transport: Option<Transport>,
    writing: Vec<u8>,
    written: usize,
    /// What goes once `writing` is out.
    waiting: Vec<u8>,
    /// The peer takes no more bytes: what is meant for it is thrown away, what it has sent is still read.
    deaf: bool,
    /// The end of the peer's bytes has been read.
    ended: bool,
    flushed: bool,
}

/// What a write has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Everything is out.
    All,
    /// The socket takes no more now.
    Blocked,
}

impl Leg {
    /// The socket, once there is one.
    pub fn set(&mut self, transport: Transport) {
        self.transport = Some(transport);
        self.flushed = true;
    }

    /// True while there is a socket.
    pub fn is_open(&self) -> bool {
        self.transport.is_some()
    }

    /// True while more bytes may come from the peer.
    pub fn is_readable(&self) -> bool {
        self.transport.is_some() && !self.ended
    }

    /// Bytes taken from the session and not yet taken by the socket.
    pub fn backlog(&self) -> usize {
        self.writing.len() - self.written + self.waiting.len()
    }

    /// Reads once. `Ok(0)` is the end, also after an error: what the kernel had has been read by then.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let Some(transport) = &mut self.transport else {
            return Poll::Pending;
        };
        match transport.poll_read(cx, buffer) {
            Poll::Ready(Ok(count)) if count > 0 => Poll::Ready(count),
            Poll::Ready(_) => {
                self.ended = true;
                Poll::Ready(0)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what the session has for this peer and then `passed`, as far as the socket takes it, and keeps what it does not take of
    /// `passed`. Returns how it stands and how many bytes went out.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, session: &mut Session, side: Side, mut passed: &[u8]) -> (Written, usize) {
        let mut total = 0;
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                if !self.waiting.is_empty() {
                    std::mem::swap(&mut self.writing, &mut self.waiting);
                } else if session.pending(side) > 0 {
                    session.swap_output(side, &mut self.writing);
                } else if passed.is_empty() {
                    return (self.poll_flush(cx), total);
                }
            }
            if self.deaf {
                self.written = self.writing.len();
                if self.writing.is_empty() {
                    passed = &[];
                }
                continue;
            }
            let direct = self.writing.is_empty();
            let bytes = if direct {
                passed
            } else {
                self.writing.get(self.written..).unwrap_or_default()
            };
            let result = match &mut self.transport {
                Some(transport) => transport.poll_write(cx, bytes),
                None => Poll::Pending,
            };
            match result {
                Poll::Ready(Ok(count)) if count > 0 => {
                    if direct {
                        passed = passed.get(count..).unwrap_or_default();
                    } else {
                        self.written += count;
                    }
                    total += count;
                    self.flushed = false;
                }
                Poll::Ready(_) => self.deaf = true,
                Poll::Pending => {
                    self.keep(session, side, passed);
                    return (Written::Blocked, total);
                }
            }
        }
    }

    /// Keeps what can lie in the read buffer no longer, behind what comes before it.
    fn keep(&mut self, session: &mut Session, side: Side, passed: &[u8]) {
        if passed.is_empty() {
            return;
        }
        if session.pending(side) > 0 {
            let mut due = Vec::new();
            session.swap_output(side, &mut due);
            self.waiting.append(&mut due);
        }
        self.waiting.extend_from_slice(passed);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Written {
        if self.flushed || self.deaf {
            return Written::All;
        }
        match self
            .transport
            .as_mut()
            .map_or(Poll::Ready(Ok(())), |transport| transport.poll_flush(cx))
        {
            Poll::Ready(result) => {
                self.deaf |= result.is_err();
                self.flushed = true;
                Written::All
            }
            Poll::Pending => Written::Blocked,
        }
    }

    /// The peer is gone, or is to hear nothing more: what is meant for it is thrown away, what it has sent may still be read.
    pub fn silence(&mut self) {
        self.deaf = true;
        self.writing = Vec::new();
        self.waiting = Vec::new();
        self.written = 0;
    }

    /// Closes the socket as it is.
    pub fn abort(&mut self) {
        self.silence();
        self.transport = None;
    }

    /// Gives the buffers of a quiet connection back.
    pub fn release_buffers(&mut self, spares: &mut Spares) {
        if self.backlog() == 0 {
            self.writing.clear();
            self.written = 0;
        }
        spares.release(&mut self.writing);
        spares.release(&mut self.waiting);
    }

    /// Ends the outgoing direction; the socket is closed then.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(transport) = &mut self.transport else {
            return Poll::Ready(Ok(()));
        };
        let done = if self.deaf {
            Poll::Ready(Ok(()))
        } else {
            transport.poll_shutdown(cx)
        };
        if done.is_ready() {
            self.transport = None;
        }
        done
    }
}

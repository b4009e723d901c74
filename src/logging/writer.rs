//! The thread that writes log lines, behind a bounded queue.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written.
const QUEUE: usize = 8192;
const FLUSH_WAIT: Duration = Duration::from_secs(1);

enum Order {
    Line(String),
    Flush(SyncSender<()>),
}

/// Owner of the writing thread, which ends with the process.
pub(super) struct Writer {
    sink: Sink,
}

/// Where lines are put. Never blocks.
#[derive(Clone)]
pub struct Sink {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Writer> {
        Writer::with_queue(output, QUEUE)
    }

    pub(super) fn with_queue(output: impl Write + Send + 'static, queue: usize) -> io::Result<Writer> {
        let (orders, queue) = sync_channel(queue);
        let lost = Arc::new(AtomicU64::new(0));
        let sink = Sink {
            orders,
            lost: Arc::clone(&lost),
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || run(&queue, &lost, output))?;
        Ok(Writer { sink })
    }

    pub(super) fn sink(&self) -> Sink {
        self.sink.clone()
    }

    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        let mut order = Order::Flush(done);
        let give_up = std::time::Instant::now() + FLUSH_WAIT;
        while let Err(TrySendError::Full(refused)) = self.sink.orders.try_send(order) {
            if std::time::Instant::now() >= give_up {
                return;
            }
            order = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
        // A timeout or a dead thread: there is nobody left to tell.
        let _ = wait.recv_timeout(FLUSH_WAIT);
    }
}

impl Sink {
    /// Queues one line, its line feed included; drops and counts it if the queue is full.
    pub(super) fn put(&self, line: String) {
        if self.orders.try_send(Order::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Output errors are ignored: a log that cannot be written has nowhere to complain.
fn run(queue: &Receiver<Order>, lost: &AtomicU64, mut output: impl Write) {
    while let Ok(order) = queue.recv() {
        match order {
            Order::Line(line) => {
                let _ = output.write_all(line.as_bytes());
            }
            Order::Flush(done) => {
                let _ = output.flush();
                let _ = done.send(());
            }
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(output, "{lost} log lines were lost: they came faster than they could be written");
        }
    }
}

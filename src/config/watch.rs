//! Tells when the files of a config have changed.
//!
//! What counts is the content: an editor's rename, a touched file and the swap of a mounted `ConfigMap`'s symlinks all look different
//! to the kernel, and a file system without notices (NFS) shows nothing at all. So a notice, or the passing of half a minute, only starts a
//! look at the files themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::file::read_bytes;
use super::{Config, files};

/// How long the files must be at rest before a change is told: an editor, or `kubectl`, writes in several steps.
const REST: Duration = Duration::from_millis(200);

/// How often the files are looked at without a notice from the kernel.
const POLL: Duration = Duration::from_secs(30);

/// SHA-256 over names and contents.
pub(super) type Fingerprint = [u8; 32];

/// Something in the watched files is different from what it was when the config was loaded, or when it was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed;

/// Why the files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The thread could not be started.
    #[error("the thread that watches the config cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running watch; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    orders: Sender<Order>,
}

/// What wakes the thread.
enum Order {
    /// The kernel saw something.
    Look,
    /// Other files count from now on.
    Files(Vec<PathBuf>, Fingerprint),
    /// The watch is over.
    Stop,
}

impl Watch {
    /// Watches the files of this config from now on: to be called after each reload. A change since it was loaded is told.
    pub fn set(&self, config: &Config) {
        // Without the thread there is nobody to tell, which the receiver of its events sees.
        let _ = self.orders.send(Order::Files(files(config), config.fingerprint));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
    }
}

/// Starts to watch the files and directories of a config ([`files`]). A change since it was loaded is told; changes that come before
/// the last was received are told once.
pub fn watch(config: &Config) -> Result<(Watch, mpsc::Receiver<Changed>), WatchError> {
    let (orders, inbox) = channel();
    let (events, changes) = mpsc::channel(1);
    let notices = orders.clone();
    let (files, seen) = (files(config), config.fingerprint);
    let run = move || Thread::new(files, seen, notices).run(&inbox, &events);
    thread::Builder::new().name("config-watch".to_owned()).spawn(run)?;
    // The kernel tells of what happens from now on; what happened since the config was loaded is found by this first look.
    let _ = orders.send(Order::Look);
    Ok((Watch { orders }, changes))
}

/// What the looks at the files have found.
///
/// A look can fall between two steps of a write, whatever woke it, so a change counts once two looks [`REST`] apart have found the same.
#[derive(Debug)]
struct Looks {
    /// What the config was loaded from, or what was last told.
    told: Fingerprint,
    last: Fingerprint,
}

/// What a look means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Unchanged,
    /// Different from what was told, and it may not be whole: look again after [`REST`].
    Moving,
    /// Different, and at rest.
    Changed,
}

impl Looks {
    fn new(told: Fingerprint) -> Looks {
        Looks { told, last: told }
    }

    fn look(&mut self, now: Fingerprint) -> Sight {
        let at_rest = now == self.last;
        self.last = now;
        if now == self.told {
            Sight::Unchanged
        } else if at_rest {
            self.told = now;
            Sight::Changed
        } else {
            Sight::Moving
        }
    }
}

/// The state of the watching thread.
struct Thread {
    files: Vec<PathBuf>,
    looks: Looks,
    /// None where the kernel has no notices to give; the poll remains.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Thread {
    fn new(files: Vec<PathBuf>, seen: Fingerprint, notices: Sender<Order>) -> Thread {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and this thread reads them all at every look.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = notices.send(Order::Look);
            }
        });
        let mut thread = Thread {
            files,
            looks: Looks::new(seen),
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
        };
        thread.watch_directories();
        thread
    }

    fn run(mut self, inbox: &Receiver<Order>, events: &mpsc::Sender<Changed>) {
        let mut wait = POLL;
        loop {
            match inbox.recv_timeout(wait) {
                Ok(Order::Look) => {
                    if self.rest(inbox).is_err() {
                        return;
                    }
                }
                Ok(Order::Files(files, seen)) => (self.files, self.looks) = (files, Looks::new(seen)),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            if events.is_closed() {
                return;
            }
            self.watch_directories();
            let sight = self.looks.look(fingerprint(&self.files));
            if sight == Sight::Changed {
                // A full channel holds a change that has not been received yet: its receiver will read the present files.
                let _ = events.try_send(Changed);
            }
            wait = if sight == Sight::Moving { REST } else { POLL };
        }
    }

    /// Waits until nothing has happened for [`REST`].
    fn rest(&mut self, inbox: &Receiver<Order>) -> Result<(), ()> {
        loop {
            match inbox.recv_timeout(REST) {
                Ok(Order::Look) => {}
                Ok(Order::Files(files, seen)) => (self.files, self.looks) = (files, Looks::new(seen)),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return Err(()),
            }
        }
    }

    /// Directories are watched, not files: a file that is replaced by a rename is another file. The directory behind a symlink is
    /// watched too. What cannot be watched is left to the poll.
    fn watch_directories(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = self.files.iter().flat_map(|path| directories(path)).collect();
        let gone: Vec<PathBuf> = self.watched.difference(&wanted).cloned().collect();
        for directory in gone {
            let _ = watcher.unwatch(&directory);
            self.watched.remove(&directory);
        }
        for directory in wanted {
            if !self.watched.contains(&directory) && watcher.watch(&directory, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(directory);
            }
        }
    }
}

/// The directories in which a change of this path shows.
fn directories(path: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).to_owned()
    };
    let real = fs::canonicalize(path).ok();
    let mut found = vec![parent(path)];
    found.extend(real.as_deref().map(parent));
    found.extend(real.filter(|real| real.is_dir()));
    found
}

/// What the files hold: of a directory, the names in it.
pub(super) fn fingerprint(files: &[PathBuf]) -> Fingerprint {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    for path in files {
        part(path.as_os_str().as_encoded_bytes());
        let here = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path.as_path()
        };
        if here.is_dir() {
            let names = fs::read_dir(here)
                .into_iter()
                .flatten()
                .filter_map(Result::ok)
                .map(|entry| entry.file_name());
            let names: BTreeSet<_> = names.collect();
            for name in &names {
                part(name.as_encoded_bytes());
            }
        } else {
            match read_bytes(here) {
                Ok(content) => part(&content),
                Err(error) => part(error.kind().to_string().as_bytes()),
            }
        }
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_it_is_at_rest() {
        let [old, half, whole] = [[0; 32], [1; 32], [2; 32]];
        let mut looks = Looks::new(old);
        let found = [old, half, whole, whole, whole].map(|now| looks.look(now));
        assert_eq!(
            found,
            [Sight::Unchanged, Sight::Moving, Sight::Moving, Sight::Changed, Sight::Unchanged]
        );
    }

    #[test]
    fn what_is_taken_back_is_no_change() {
        let [old, new] = [[0; 32], [1; 32]];
        let mut looks = Looks::new(old);
        let found = [new, old, new, new].map(|now| looks.look(now));
        assert_eq!(found, [Sight::Moving, Sight::Unchanged, Sight::Moving, Sight::Changed]);
    }
}
